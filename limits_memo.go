package ratelimit

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// limitsMemo remembers what was made of lists of limits, because takes ask for the same ones again and again. What
// is made is only to be read.
type limitsMemo[T any] struct {
	known atomic.Pointer[map[Limit][]madeOfLimits[T]] // by the first limit of the list; replaced under mu, read without

	mu   sync.Mutex
	size int // lists in known
}

type madeOfLimits[T any] struct {
	limits []Limit
	made   T
}

// mostRemembered bounds how much is remembered. Programs have few limits; those of a limit function could be any.
const mostRemembered = 1024

// of returns what is remembered of limits, or else what is made of them now. An error is not remembered, nor is what
// is made of none.
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
	if m.size == mostRemembered {
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
