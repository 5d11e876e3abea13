package console

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	auditLines  = 100
	longestText = 128
)

// Action is a line of the audit. It has the digest of a key and never the key.
type Action struct {
	Time    time.Time `json:"time"`
	User    string    `json:"user"`
	Action  string    `json:"action"`
	Limiter string    `json:"limiter"`
	Key     string    `json:"key,omitempty"`
	Outcome string    `json:"outcome"`
}

type audit struct {
	mu    sync.Mutex
	lines []Action // newest last
}

func (a *audit) add(line Action) {
	line.Time = time.Now()
	line.User = bounded(line.User)
	slog.Info("ratelimit console", "user", line.User, "action", line.Action, "limiter", line.Limiter, "key", line.Key, "outcome", line.Outcome)
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.lines) == auditLines {
		copy(a.lines, a.lines[1:])
		a.lines = a.lines[:auditLines-1]
	}
	a.lines = append(a.lines, line)
}

// last returns the lines, newest first.
func (a *audit) last() []Action {
	a.mu.Lock()
	defer a.mu.Unlock()
	lines := make([]Action, 0, len(a.lines))
	for _, line := range slices.Backward(a.lines) {
		lines = append(lines, line)
	}
	return lines
}

func bounded(text string) string {
	return strings.Clone(strings.ToValidUTF8(text[:min(len(text), longestText)], ""))
}
