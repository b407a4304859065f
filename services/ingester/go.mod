module example.com/auditlog/services/ingester

go 1.26.0

require (
	example.com/auditlog/deploy v0.0.0
	example.com/auditlog/pkg/events v0.0.0
	example.com/auditlog/pkg/service v0.0.0
)

replace example.com/auditlog/pkg/events => ../../pkg/events

replace example.com/auditlog/pkg/service => ../../pkg/service

replace example.com/auditlog/deploy => ../../deploy
