// Package notify calls a user's functions about what has changed: one call at a time and in order, on the goroutines on
// which the changes happen, with no lock held.
package notify

import "sync"

// Serial lets one goroutine at a time make the calls about some state. The zero value is ready for use.
type Serial struct{ notifying bool }

// Run makes the calls that next returns, until it returns nil. mu guards the Serial and what next reads: it is held
// during next, and not during the calls. If another goroutine is already making calls, Run returns at once and leaves
// them to it. A call that panics ends this Run; the next Run goes on with the call after it.
func (s *Serial) Run(mu *sync.Mutex, next func() (call func())) {
	mu.Lock()
	defer mu.Unlock()
	if s.notifying {
		return
	}
	s.notifying = true
	defer func() { s.notifying = false }()
	for call := next(); call != nil; call = next() {
		unlocked(mu, call)
	}
}

// unlocked calls f without the lock, which is held again afterwards even if f panics.
func unlocked(mu *sync.Mutex, f func()) {
	mu.Unlock()
	defer mu.Lock()
	f()
}
