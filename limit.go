package ratelimit

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// Rate is how fast a bucket refills: Tokens come back over every Per, evenly, not all at once.
// The zero Rate is invalid. Rates are comparable, and print as "10/s", "100/m", "1/86.4s".
type Rate struct {
	Tokens int
	Per    time.Duration
}

const day = 24 * time.Hour

// PerSecond is a rate in tokens a second: PerSecond(10) is "10/s", one token each 100 ms.
func PerSecond(tokens int) Rate { return Rate{tokens, time.Second} }

// PerMinute is a rate in tokens a minute: PerMinute(100) is "100/m", one token each 600 ms.
func PerMinute(tokens int) Rate { return Rate{tokens, time.Minute} }

// PerHour is a rate in tokens an hour: PerHour(1000) is "1000/h", one token each 3.6 s.
func PerHour(tokens int) Rate { return Rate{tokens, time.Hour} }

// PerDay is a rate in tokens per 24 hours: PerDay(1000) is "1000/d", one token each 86.4 s.
func PerDay(tokens int) Rate { return Rate{tokens, day} }

// Every is a refill of one token per interval: Every(86400*time.Millisecond) is "1/86.4s".
func Every(interval time.Duration) Rate { return Rate{1, interval} }

// String returns the text form, for example "10/s" or "1/86.4s".
func (r Rate) String() string {
	return strconv.Itoa(r.Tokens) + "/" + formatPer(r.Per)
}

// Burst returns the limit of this rate whose bucket holds the given tokens: PerMinute(100).Burst(200) is
// "100/m burst 200".
func (r Rate) Burst(tokens int) Limit { return Limit{Capacity: tokens, Refill: r} }

// MarshalText returns the text form. A rate that does not refill is an error.
func (r Rate) MarshalText() ([]byte, error) {
	if err := r.validate(); err != nil {
		return nil, err
	}
	return []byte(r.String()), nil
}

// UnmarshalText reads the text form: tokens, a slash, and a period. A period is a unit (s, sec or second; m, min or
// minute; h, hr or hour; d or day; also in the plural), a whole number of units, or a duration of Go's: "10/s",
// "100/min", "7/3s", "1/30days", "1/86.4s", "5/1h30m".
func (r *Rate) UnmarshalText(text []byte) error {
	rate, err := parseRate(string(text))
	if err != nil {
		return err
	}
	*r = rate
	return nil
}

func (r Rate) validate() error {
	switch {
	case r.Tokens < 1:
		return errorf("refill rate %v: tokens must be at least 1, for example PerSecond(10)", r)
	case r.Per <= 0:
		return errorf("refill rate %v: the period must be positive, for example PerSecond(10)", r)
	}
	return nil
}

// Limit is one token bucket: Capacity is the largest burst in tokens, Refill the long-term rate.
// Limits are comparable. The text form is the rate, and the burst where it is not the rate's tokens:
// "10/s", "100/m burst 200", "1/86.4s burst 5000".
//
// A limiter takes a Capacity of 0 for the rate's tokens. A [Store] refuses it.
type Limit struct {
	Capacity int
	Refill   Rate
}

// Unlimited is what a limit function ([WithLimitFunc]) returns for a request that is not limited: it passes as if there
// were no limiter, and is not observed. As text it is "unlimited".
var Unlimited = []Limit{noLimit}

// noLimit is the one value of Unlimited. No store accepts it: it cannot be counted.
var noLimit = Limit{Capacity: math.MaxInt, Refill: Rate{Tokens: math.MaxInt, Per: math.MinInt64}}

func isUnlimited(limits []Limit) bool { return len(limits) == 1 && limits[0] == noLimit }

// withCapacities returns limits with each capacity of 0 replaced by the rate's tokens. It copies limits only if there is
// one.
func withCapacities(limits []Limit) []Limit {
	zero := func(l Limit) bool { return l.Capacity == 0 }
	if !slices.ContainsFunc(limits, zero) {
		return limits
	}
	limits = slices.Clone(limits)
	for i := range limits {
		if zero(limits[i]) {
			limits[i].Capacity = limits[i].Refill.Tokens
		}
	}
	return limits
}

// ParseLimit reads the text form of a limit, as [Limit.UnmarshalText] does.
func ParseLimit(text string) (Limit, error) {
	var l Limit
	err := l.UnmarshalText([]byte(text))
	return l, err
}

// String returns the text form, for example "100/m burst 200".
func (l Limit) String() string {
	if l == noLimit {
		return "unlimited"
	}
	if l.Capacity == l.Refill.Tokens {
		return l.Refill.String()
	}
	return l.Refill.String() + " burst " + strconv.Itoa(l.Capacity)
}

// MarshalText returns the text form. A limit that [Limit.Validate] rejects is an error.
func (l Limit) MarshalText() ([]byte, error) {
	if l == noLimit {
		return []byte("unlimited"), nil
	}
	if err := l.Validate(); err != nil {
		return nil, err
	}
	return []byte(l.String()), nil
}

// UnmarshalText reads the text form, so that JSON, YAML, flags and environment variables can hold limits. Without "burst"
// the capacity is the rate's tokens. "unlimited" is the limit of [Unlimited].
func (l *Limit) UnmarshalText(text []byte) error {
	if strings.TrimSpace(string(text)) == "unlimited" {
		*l = noLimit
		return nil
	}
	rateText, burstText, hasBurst := strings.Cut(string(text), "burst")
	rate, err := parseRate(strings.TrimSpace(rateText))
	if err != nil {
		return err
	}
	limit := Limit{Capacity: rate.Tokens, Refill: rate}
	if hasBurst {
		if limit.Capacity, err = strconv.Atoi(strings.TrimSpace(burstText)); err != nil {
			return errorf("limit %q: the burst must be a whole number, as in \"100/m burst 200\"", clip(string(text)))
		}
	}
	if err := limit.Validate(); err != nil {
		return err
	}
	*l = limit
	return nil
}

// Validate reports why a bucket cannot be made of l: tokens, period or capacity below one, or a
// capacity so large for its rate that the bucket could not be counted exactly. Every limit that it
// accepts is decided exactly, without rounding, by every store.
func (l Limit) Validate() error {
	_, err := scaleOf(l)
	return err
}

// scaleOf returns l in the units that a bucket is counted in.
func scaleOf(l Limit) (bucket.Scale, error) {
	if err := l.Refill.validate(); err != nil {
		return bucket.Scale{}, err
	}
	if l.Capacity < 1 {
		return bucket.Scale{}, errorf("capacity %d of limit %q: must be at least 1", l.Capacity, l)
	}
	s, maxCapacity := bucket.NewScale(int64(l.Capacity), int64(l.Refill.Tokens), int64(l.Refill.Per))
	switch {
	case maxCapacity < 0:
		return bucket.Scale{}, errorf("refill rate %v: too fast to be counted; use a slower rate", l.Refill)
	case maxCapacity == 0:
		return bucket.Scale{}, errorf("refill rate %v: too slow to be counted; use at least a token in 142 years", l.Refill)
	case s.Capacity > maxCapacity:
		return bucket.Scale{}, errorf("capacity %d of limit %q: at this rate at most %d can be counted exactly; "+
			"lower the capacity, or use a rate with rounder numbers", l.Capacity, l, maxCapacity)
	}
	return s, nil
}

// limitOf is a limit of this scale. Several may have it; the one returned has as its period the first of a second, a
// minute, an hour and a day in which whole tokens come back, or else the shortest such period.
func limitOf(s *bucket.Scale) Limit {
	rate := Rate{Tokens: int(s.PerTick), Per: time.Duration(s.Token) * time.Microsecond}
	for _, per := range []time.Duration{time.Second, time.Minute, time.Hour, day} {
		if ticks := int64(per / time.Microsecond); ticks%s.Token == 0 && ticks/s.Token <= math.MaxInt/s.PerTick {
			rate = Rate{Tokens: int(ticks / s.Token * s.PerTick), Per: per}
			break
		}
	}
	return Limit{Capacity: int(s.Capacity), Refill: rate}
}

var errRateForm = errors.New(`want tokens/period, as in "10/s", "100/m" or "1/86.4s"`)

func parseRate(text string) (Rate, error) {
	tokensText, perText, _ := strings.Cut(text, "/")
	tokens, err := strconv.Atoi(tokensText)
	if err != nil {
		return Rate{}, errorf("rate %q: %w", clip(text), errRateForm)
	}
	per, err := parsePer(perText)
	if err != nil {
		return Rate{}, errorf("rate %q: %w", clip(text), errRateForm)
	}
	rate := Rate{tokens, per}
	return rate, rate.validate()
}

// parsePer reads a unit, a whole number of units, or a duration of Go's, which has no days.
func parsePer(text string) (time.Duration, error) {
	digits := len(text) - len(strings.TrimLeft(text, "0123456789"))
	unit, known := units[text[digits:]]
	if !known {
		return time.ParseDuration(text)
	}
	if digits == 0 {
		return unit, nil
	}
	n, err := strconv.ParseInt(text[:digits], 10, 64)
	if err != nil || n > int64(math.MaxInt64/unit) {
		return 0, errRateForm
	}
	return time.Duration(n) * unit, nil
}

// units are the words for periods.
var units = map[string]time.Duration{
	"s": time.Second, "sec": time.Second, "secs": time.Second, "second": time.Second, "seconds": time.Second,
	"m": time.Minute, "min": time.Minute, "mins": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hr": time.Hour, "hrs": time.Hour, "hour": time.Hour, "hours": time.Hour,
	"d": day, "day": day, "days": day,
}

func formatPer(per time.Duration) string {
	for _, unit := range []struct {
		name string
		size time.Duration
	}{{"d", day}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}} {
		switch {
		case per == unit.size:
			return unit.name
		case per > 0 && per%unit.size == 0:
			return strconv.FormatInt(int64(per/unit.size), 10) + unit.name
		}
	}
	if per < time.Second {
		return per.String()
	}
	// Whole nanoseconds in decimal seconds; Duration.String would say 1m26.4s.
	fraction := fmt.Sprintf("%09d", per%time.Second)
	return strconv.FormatInt(int64(per/time.Second), 10) + "." + strings.TrimRight(fraction, "0") + "s"
}

// clip shortens text that an error quotes, because configuration may be of any length.
func clip(text string) string {
	const maxLength = 64
	if len(text) <= maxLength {
		return text
	}
	return text[:maxLength] + "…"
}

// limitsMemo remembers what was made from lists of limits, because takes use the same lists again and again. What is made
// is only to be read.
type limitsMemo[T any] struct {
	known atomic.Pointer[map[Limit][]madeOfLimits[T]] // by the first limit of the list; replaced under mu, read without

	mu   sync.Mutex
	size int // lists in known
}

type madeOfLimits[T any] struct {
	limits []Limit
	made   T
}

// maxRemembered bounds how many lists are remembered. Programs have few limits, but a limit function could make any
// number of them.
const maxRemembered = 1024

// of returns what was made from limits before, or else makes it now. Errors are not remembered, nor what is made from no
// limits.
func (m *limitsMemo[T]) of(limits []Limit, build func([]Limit) (T, error)) (T, error) {
	if len(limits) == 0 {
		return build(limits)
	}
	if known := m.known.Load(); known != nil {
		for _, k := range (*known)[limits[0]] {
			if slices.Equal(k.limits, limits) {
				return k.made, nil
			}
		}
	}
	made, err := build(limits)
	if err == nil {
		m.remember(madeOfLimits[T]{slices.Clone(limits), made})
	}
	return made, err
}

func (m *limitsMemo[T]) remember(k madeOfLimits[T]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.size == maxRemembered {
		return
	}
	m.size++
	next := map[Limit][]madeOfLimits[T]{}
	if known := m.known.Load(); known != nil {
		next = maps.Clone(*known)
	}
	first := k.limits[0]
	next[first] = append(slices.Clip(next[first]), k)
	m.known.Store(&next)
}
