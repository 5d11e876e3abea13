package ratelimit

import (
	"strconv"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// scriptLimits is a list of limits as the script takes them. Arguments are kept as go-redis wants them, so that a take
// neither prints numbers nor allocates for them.
type scriptLimits struct {
	scales  []bucket.Scale
	fixed   []scriptLimit
	takeOne []any // the arguments of nearly all calls: one token, no wait, no ban
}

// scriptLimit is the arguments of a limit that do not depend on what is done.
type scriptLimit struct{ text, perTick any }

func newScriptLimits(limits []Limit) (*scriptLimits, error) {
	scales, err := appendScales(make([]bucket.Scale, 0, len(limits)), limits)
	if err != nil {
		return nil, err
	}
	l := &scriptLimits{scales: scales}
	for i := range scales {
		l.fixed = append(l.fixed, scriptLimit{scaleText(&scales[i]), decimal(scales[i].PerTick)})
	}
	l.takeOne = l.print(&bucket.Change{N: 1})
	return l, nil
}

// args are the arguments for a change, only to be read.
func (l *scriptLimits) args(c *bucket.Change) []any {
	if *c == (bucket.Change{N: 1}) {
		return l.takeOne
	}
	return l.print(c)
}

func (l *scriptLimits) print(c *bucket.Change) []any {
	if c.Back != nil {
		return l.printBack(c)
	}
	args := make([]any, 0, 4*len(l.scales)+5)
	for i := range l.scales {
		ceiling, cost := c.Units(&l.scales[i])
		args = append(args, l.fixed[i].text, decimal(ceiling), decimal(cost), l.fixed[i].perTick)
	}
	if c.Ban != nil {
		args = append(args, scaleText(&c.Ban.Strikes), scaleText(&c.Ban.Memory), decimal(c.Ban.First), decimal(c.Ban.Longest), "ban")
	}
	return args
}

func (l *scriptLimits) printBack(c *bucket.Change) []any {
	args := make([]any, 0, 4*len(l.scales)+3)
	for i := range l.scales {
		args = append(args, l.fixed[i].text, decimal(c.Back.Deficits[i]), decimal(l.scales[i].Units(c.N)), l.fixed[i].perTick)
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

// scaleText is a scale as it stands in Redis.
func scaleText(s *bucket.Scale) string {
	return decimal(s.Capacity) + " " + decimal(s.Token) + " " + decimal(s.PerTick)
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }
