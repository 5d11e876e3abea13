package ratelimitprom_test

import (
	"testing"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/extra/ratelimitprom"
)

type leaser ratelimit.LeaseStats

func (l leaser) LeaseStats() ratelimit.LeaseStats { return ratelimit.LeaseStats(l) }

func TestWithLeases(t *testing.T) {
	_, registry := registered(t, ratelimitprom.WithLeases("main", leaser{Calls: 1, Leased: 9, Spent: 5, GivenBack: 2, Void: 3}))
	metrics := gather(t, registry)
	expectValues(t, metrics["ratelimit_lease_calls_total"], "store=main 1")
	expectValues(t, metrics["ratelimit_lease_tokens_total"],
		"fate=given_back store=main 2", "fate=leased store=main 9", "fate=spent store=main 5", "fate=void store=main 3")
}
