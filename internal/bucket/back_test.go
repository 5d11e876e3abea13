package bucket

import (
	"testing"
)

// A give-back, computed with big numbers, is worth no more than is left of what was missing after the take.
func TestGiveBacks(t *testing.T) {
	r := newNumbers(t)
	partly, nothing, left := 0, 0, 0
	for range bucketRounds {
		s := r.scale()
		after, deficit, n := r.upTo(MaxDeficit), r.upTo(MaxDeficit), r.from1To(MaxDeficit)
		at := r.upTo(1 << 50)
		elapsed := r.upTo(MaxDeficit)
		if r.IntN(2) == 0 {
			elapsed = max(0, s.UntilFull(after)-r.Int64N(3)+1) // around the moment at which all has refilled
		}
		back := Back{At: at, Deficits: []int64{after}, Leave: r.IntN(3) == 0, Queued: r.IntN(2) == 0}
		rest := maxOf(zero, sub(bigInt(after), mul(elapsed, s.PerTick)))
		want := minOf(mul(n, s.Token), rest)
		switch {
		case back.Leave:
			want = sub(want, maxOf(zero, sub(bigInt(deficit), rest)))
		case back.Queued && bigInt(deficit).Cmp(mul(s.Capacity, s.Token)) > 0:
			want = zero
		}
		want = maxOf(zero, want)
		switch {
		case want.Sign() == 0:
			nothing++
		case want.Cmp(mul(n, s.Token)) < 0:
			partly++
		}
		if back.Leave {
			left++
		}
		c := Change{N: n, Back: &back}
		got, allowed := c.Of(0, &s, deficit, at+elapsed)
		same(t, "give-back", got, maxOf(zero, sub(bigInt(deficit), want)), s, back, deficit, n, elapsed)
		if !allowed {
			t.Fatal("a give-back was refused")
		}
	}
	if partly < bucketRounds/50 || nothing < bucketRounds/50 || left < bucketRounds/5 {
		t.Errorf("%d were worth a part, %d nothing, and %d gave up a place", partly, nothing, left)
	}
}

func TestGiveBackByHand(t *testing.T) {
	// 10 tokens of 6 units, of which one comes back each tick.
	s := Scale{Capacity: 10, Token: 6, PerTick: 1}
	for _, c := range []struct {
		name          string
		back          Back
		n, now        int64
		deficit, want int64
	}{
		{name: "at once", back: Back{At: 100, Deficits: []int64{60}}, n: 10, now: 100, deficit: 60, want: 0},
		{name: "a part at once", back: Back{At: 100, Deficits: []int64{60}}, n: 3, now: 100, deficit: 60, want: 42},
		{name: "half refilled", back: Back{At: 100, Deficits: []int64{60}}, n: 10, now: 130, deficit: 60, want: 30},
		{name: "all refilled", back: Back{At: 100, Deficits: []int64{60}}, n: 10, now: 160, deficit: 60, want: 60},
		{name: "a part of which nothing has refilled yet", back: Back{At: 100, Deficits: []int64{60}}, n: 3, now: 130, deficit: 60, want: 42},
		{name: "never above full", back: Back{At: 100, Deficits: []int64{60}}, n: 10, now: 100, deficit: 12, want: 0},
		{name: "the clock a little behind", back: Back{At: 100, Deficits: []int64{60}}, n: 10, now: 99, deficit: 60, want: 0},
		{name: "the clock set back", back: Back{At: 100 + LateTolerance + 1, Deficits: []int64{60}}, n: 10, now: 100, deficit: 60, want: 60},
		{name: "the last place in the queue", back: Back{At: 100, Deficits: []int64{66}, Leave: true}, n: 1, now: 103, deficit: 63, want: 57},
		{name: "a place with one behind it", back: Back{At: 100, Deficits: []int64{66}, Leave: true}, n: 1, now: 103, deficit: 69, want: 69},
		{name: "a place of two with one behind it", back: Back{At: 100, Deficits: []int64{72}, Leave: true}, n: 2, now: 100, deficit: 78, want: 72},
		{name: "served, and others wait", back: Back{At: 100, Deficits: []int64{60}, Queued: true}, n: 1, now: 100, deficit: 66, want: 66},
		{name: "served, and nobody waits", back: Back{At: 100, Deficits: []int64{54}, Queued: true}, n: 1, now: 100, deficit: 60, want: 54},
	} {
		t.Run(c.name, func(t *testing.T) {
			change := Change{N: c.n, Back: &c.back}
			if got, _ := change.Of(0, &s, c.deficit, c.now); got != c.want {
				t.Errorf("%d units are missing afterwards, want %d", got, c.want)
			}
		})
	}
}

// Less is left of a take after a give-back, and more after a debt.
func TestLeft(t *testing.T) {
	scales := []Scale{{Capacity: 10, Token: 6, PerTick: 1}, {Capacity: 10, Token: 1, PerTick: 3}}
	deficits := []int64{60, 2}
	(&Change{N: 3, Back: &Back{}}).Left(scales, deficits)
	if deficits[0] != 42 || deficits[1] != 0 {
		t.Errorf("after three of them: %v", deficits)
	}
	(&Change{N: 2, Debt: true}).Left(scales, deficits)
	if deficits[0] != 54 || deficits[1] != 2 {
		t.Errorf("after two more: %v", deficits)
	}
}

// Several buckets change together or not at all, and buckets that are not asked for only refill.
func TestStateApply(t *testing.T) {
	fast, slow := Scale{Capacity: 5, Token: 1, PerTick: 1}, Scale{Capacity: 5, Token: 100, PerTick: 1}
	var s State
	take := func(now, n int64, scales ...Scale) Outcome {
		o, _ := s.Apply(now, &Change{N: n}, scales)
		return o
	}
	if o := take(0, 5, fast, slow); !o.Allowed || o.Deficits[0] != 5 || o.Deficits[1] != 500 {
		t.Errorf("five of both: %+v", o)
	}
	if o := take(5, 1, fast, slow); o.Allowed || o.Deficits[0] != 0 || o.Deficits[1] != 495 {
		t.Errorf("the slow one refuses for both: %+v", o)
	}
	if o := take(5, 2, fast); !o.Allowed || len(s.Levels) != 2 || s.Levels[1].Deficit != 495 {
		t.Errorf("the fast one alone: %+v, %+v", o, s)
	}
	if s.Full(499) || !s.Full(500) {
		t.Error("full at the wrong time")
	}
	o, changed := s.Apply(10, &Change{N: 1, Back: &Back{At: 5, Deficits: []int64{2}}}, []Scale{fast})
	if changed || !o.Allowed {
		t.Errorf("a give-back that is worth nothing: %+v, %v", o, changed)
	}
	if s.Last != 5 {
		t.Error("it has written")
	}
}
