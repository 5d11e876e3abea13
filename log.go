package ratelimit

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"maps"
	"sync"
	"time"
)

// LogObserver returns an observer that logs what was not simply allowed:
//
//	ratelimit.WithObserver(ratelimit.LogObserver(slog.Default()))
//
// The levels are Info for a client that was refused, which is a limiter's daily work (refused, cost, no_key, shadow); Warn
// for what an operator should look at (overflow: raise [WithMaxKeys]; banned; give_back); and Error where there was no
// decision (store, foreign, argument), with the store's error.
//
// A client that hammers is one line per [WithLogPeriod], limiter and reason. Failures are one line per period, limiter and
// reason, whatever the client. Each level has [WithLogRate] lines a second of its own, so that refusals cannot hide an
// outage. The attribute "suppressed" counts the events of the same level that got no line since the level's line before;
// if no line follows, they are not reported. Keys appear as their digest, see [KeyOf]. Errors are logged as they are,
// except the error about a foreign state, because it names the key; the error handler gets it whole.
//
// Allowed requests cost a comparison. One LogObserver may serve any number of limiters; it owns no goroutine, and
// remembers up to 3 × lines a second × period digests of 8 bytes. It panics if logger is nil.
func LogObserver(logger *slog.Logger, opts ...LogOption) func(context.Context, Event) {
	if logger == nil {
		panic("ratelimit: LogObserver(nil): needs a logger, for example slog.Default()")
	}
	l := &eventLog{
		logger: logger,
		period: 10 * time.Second,
		rate:   10,
		base:   time.Now(),
		seed:   maphash.MakeSeed(),
		last:   map[uint64]time.Duration{},
		levels: map[slog.Level]*levelLog{slog.LevelInfo: {}, slog.LevelWarn: {}, slog.LevelError: {}},
	}
	for _, opt := range opts {
		opt(l)
	}
	return l.observe
}

// LogOption configures [LogObserver].
type LogOption func(*eventLog)

// WithLogPeriod sets how long a client that was logged is not logged again for the same reason by the same limiter. It
// panics if period is not positive. Default: 10 s.
func WithLogPeriod(period time.Duration) LogOption {
	if period <= 0 {
		panic(fmt.Sprintf("ratelimit: WithLogPeriod(%v): must be positive, for example 10*time.Second", period))
	}
	return func(l *eventLog) { l.period = period }
}

// WithLogRate sets how many lines of each level are logged in one second at most. It panics if lines is below 1.
// Default: 10.
func WithLogRate(lines int) LogOption {
	if lines < 1 {
		panic(fmt.Sprintf("ratelimit: WithLogRate(%d): must be at least 1 line a second, for example 10", lines))
	}
	return func(l *eventLog) { l.rate = lines }
}

// eventLog is a LogObserver. It remembers only lines that were written, so its memory is bounded.
type eventLog struct {
	logger *slog.Logger
	period time.Duration
	rate   int
	base   time.Time
	seed   maphash.Seed

	mu     sync.Mutex
	last   map[uint64]time.Duration // when a line was written, since base, by what it was about
	second time.Duration            // the current one
	levels map[slog.Level]*levelLog
}

// levelLog counts what was logged on one level, and what was not.
type levelLog struct {
	lines      int // written in the current second
	suppressed int // since the last line
}

func (l *eventLog) observe(ctx context.Context, e Event) {
	if e.Reason == ReasonAllowed {
		return
	}
	level := levelOf(e)
	if !l.logger.Enabled(ctx, level) {
		return
	}
	suppressed, ok := l.admit(e, level)
	if !ok {
		return
	}
	attrs := append(make([]slog.Attr, 0, 10),
		slog.String("name", e.Name),
		slog.String("route", e.Route),
		slog.String("key", e.Key.String()),
		slog.String("reason", string(e.Reason)),
		slog.Int("cost", e.Cost))
	message := "rate limit refused"
	switch {
	case e.Err != nil:
		message = "rate limit undecided"
		if e.Reason == ReasonGiveBack {
			message = "rate limit could not give tokens back"
		}
		err := withoutKey(e.Err)
		attrs = append(attrs,
			slog.String("kind", ErrorKind(err)),
			slog.Any("error", err),
			slog.Duration("elapsed", e.Elapsed))
	default:
		if e.Reason == ReasonShadow {
			message = "rate limit would have refused"
		}
		attrs = append(attrs,
			slog.String("limit", e.Result.Limit.String()),
			slog.String("source", e.Result.Source.String()))
		if e.Result.RetryAfter != Never {
			attrs = append(attrs, slog.Duration("retry_after", e.Result.RetryAfter))
		}
	}
	if suppressed > 0 {
		attrs = append(attrs, slog.Int("suppressed", suppressed))
	}
	l.logger.LogAttrs(ctx, level, message, attrs...)
}

func levelOf(e Event) slog.Level {
	switch {
	case e.Reason == ReasonGiveBack:
		return slog.LevelWarn
	case e.Err != nil:
		return slog.LevelError
	case e.Reason == ReasonOverflow, e.Reason == ReasonBanned:
		return slog.LevelWarn
	default:
		return slog.LevelInfo
	}
}

// admit reports whether e gets a line, and how many events of its level got none since the line before.
func (l *eventLog) admit(e Event, level slog.Level) (suppressed int, ok bool) {
	about := struct {
		name   string
		reason Reason
		key    Key
	}{e.Name, e.Reason, e.Key}
	if e.Err != nil {
		about.key = Key{} // A store that is down fails for all keys alike.
	}
	// A hash, because a key may be long, and may share the memory of something larger. Where two hashes collide, a line is
	// missing.
	id := maphash.Comparable(l.seed, about)

	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Since(l.base)
	if second := now.Truncate(time.Second); second != l.second {
		l.second = second
		for _, of := range l.levels {
			of.lines = 0
		}
		maps.DeleteFunc(l.last, func(_ uint64, at time.Duration) bool { return now-at >= l.period })
	}
	at, written := l.last[id]
	of := l.levels[level]
	if of.lines >= l.rate || written && now-at < l.period {
		of.suppressed++
		return 0, false
	}
	suppressed, of.suppressed = of.suppressed, 0
	of.lines++
	l.last[id] = now
	return suppressed, true
}
