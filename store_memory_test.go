package ratelimit_test

import (
	"testing"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/storetest"
)

func memoryHarness() storetest.Harness {
	return storetest.Harness{Open: func(*testing.T) ratelimit.Store { return ratelimit.NewMemoryStore() }}
}

func TestMemoryStore(t *testing.T) { storetest.Run(t, memoryHarness()) }

func FuzzMemoryStore(f *testing.F) { storetest.Fuzz(f, memoryHarness()) }
