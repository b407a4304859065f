module example.com/auditlog/deploy

go 1.26.0
