module example.com/auditlog/pkg/events

go 1.26.0
