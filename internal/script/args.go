package script

import (
	"strconv"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// Limits is a list of limits as arguments of the script. They are kept in the form that go-redis takes, so that a take
// neither formats numbers nor allocates for them.
type Limits struct {
	Scales  []bucket.Scale // only to be read
	fixed   []fixedArgs
	takeOne []any // the arguments of nearly all calls: one token, no wait, no ban
}

// fixedArgs are the arguments of a limit that are the same for every change.
type fixedArgs struct{ text, perTick any }

// NewLimits prepares a list of limits, and keeps it.
func NewLimits(scales []bucket.Scale) *Limits {
	l := &Limits{Scales: scales}
	for i := range scales {
		l.fixed = append(l.fixed, fixedArgs{scaleText(&scales[i]), decimal(scales[i].PerTick)})
	}
	l.takeOne = l.print(&bucket.Change{N: 1})
	return l
}

// args returns the arguments for a change, only to be read.
func (l *Limits) args(c *bucket.Change) []any {
	if *c == (bucket.Change{N: 1}) {
		return l.takeOne
	}
	return l.print(c)
}

func (l *Limits) print(c *bucket.Change) []any {
	if c.Back != nil {
		return l.printBack(c)
	}
	args := make([]any, 0, 4*len(l.Scales)+5)
	for i := range l.Scales {
		ceiling, cost := c.Units(&l.Scales[i])
		args = append(args, l.fixed[i].text, decimal(ceiling), decimal(cost), l.fixed[i].perTick)
	}
	if c.Ban != nil {
		args = append(args, scaleText(&c.Ban.Strikes), scaleText(&c.Ban.Memory), decimal(c.Ban.First), decimal(c.Ban.Longest), "ban")
	}
	return args
}

func (l *Limits) printBack(c *bucket.Change) []any {
	args := make([]any, 0, 4*len(l.Scales)+3)
	for i := range l.Scales {
		args = append(args, l.fixed[i].text, decimal(c.Back.Deficits[i]), decimal(l.Scales[i].Units(c.N)), l.fixed[i].perTick)
	}
	manner := "plain"
	switch {
	case c.Back.Leave:
		manner = "leave"
	case c.Back.Queued:
		manner = "queued"
	}
	return append(args, decimal(c.Back.At), manner, "back")
}

// lend returns the arguments for a lease.
func (l *Limits) lend(asks []bucket.Ask) []any {
	args := make([]any, 0, 4*len(l.Scales)+1)
	for i := range l.Scales {
		args = append(args, l.fixed[i].text, decimal(asks[i].Need), decimal(asks[i].Want), decimal(asks[i].Floor))
	}
	return append(args, "lease")
}

const wordLook = "look"

// look returns the arguments for a look, by the limits l, or by the stored ones where l is nil.
func (l *Limits) look() []any {
	if l == nil {
		return []any{wordLook}
	}
	args := make([]any, 0, len(l.fixed)+1)
	for _, fixed := range l.fixed {
		args = append(args, fixed.text)
	}
	return append(args, wordLook)
}

var reset = []any{"reset"}

// isLook reports whether arguments are for a look. The length of its reply depends on what is stored.
func isLook(args []any) bool { return args[len(args)-1] == any(wordLook) }

// scaleText is a scale as the script reads it and Redis stores it.
func scaleText(s *bucket.Scale) string {
	return decimal(s.Capacity) + " " + decimal(s.Token) + " " + decimal(s.PerTick)
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }
