module example.com/auditlog/deploy/auditlog

go 1.26.0

require (
	example.com/auditlog/deploy v0.0.0
	example.com/auditlog/pkg/events v0.0.0
	example.com/auditlog/pkg/service v0.0.0
	example.com/auditlog/services/ingester v0.0.0
	example.com/auditlog/services/query v0.0.0
)

replace example.com/auditlog/pkg/events => ../../pkg/events

replace example.com/auditlog/pkg/service => ../../pkg/service

replace example.com/auditlog/deploy => ..

replace example.com/auditlog/services/ingester => ../../services/ingester

replace example.com/auditlog/services/query => ../../services/query
