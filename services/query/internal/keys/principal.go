package keys

import "example.com/auditlog/services/query/internal/policy"

// Principal is the key as policies see it.
func (k *Key) Principal() policy.Principal {
	p := policy.Principal{KeyID: k.ID, Tenant: k.Tenant, Roles: k.Roles, ActorID: k.Actor, ActorType: k.ActorType, ResourceTypes: k.ResourceTypes}
	if k.ExpiresAt != nil {
		p.ExpiresAt = *k.ExpiresAt
	}
	return p
}
