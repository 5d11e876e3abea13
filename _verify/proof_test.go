package verify

import (
	"fmt"
	"sync"
	"testing"
)

// proofs are what was shown beside the cases, for the report.
var proofs struct {
	mu  sync.Mutex
	all []proof
}

type proof struct {
	what, figures string
	failed        bool
}

// proves puts a test into the report, with the figures that it has when it ends.
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
