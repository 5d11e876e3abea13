package verify

import (
	"fmt"
	"sync"
	"testing"
)

// proofs are what tests other than the cases have shown, for the report.
var proofs struct {
	mu  sync.Mutex
	all []proof
}

type proof struct {
	what, figures string
	failed        bool
}

// proves adds a test to the report, with its figures when it ends.
func proves(t *testing.T, what string, figures func() string) {
	t.Cleanup(func() {
		proofs.mu.Lock()
		defer proofs.mu.Unlock()
		proofs.all = append(proofs.all, proof{what, figures(), t.Failed() || t.Skipped()})
	})
}

func figure(format string, args ...any) func() string {
	return func() string { return fmt.Sprintf(format, args...) }
}
