package ratelimit

import "strconv"

// scriptLimits is a list of limits as the script takes them. Arguments are kept as go-redis wants them, so that a take
// neither prints numbers nor allocates for them.
type scriptLimits struct {
	scales  []scale
	fixed   []scriptLimit
	takeOne []any // the arguments of nearly all calls: one token, no wait, no ban
}

// scriptLimit is the arguments of a limit that do not depend on what is done.
type scriptLimit struct{ text, perTick any }

func newScriptLimits(limits []Limit) (*scriptLimits, error) {
	scales, err := appendScales(make([]scale, 0, len(limits)), limits)
	if err != nil {
		return nil, err
	}
	l := &scriptLimits{scales: scales}
	for i := range scales {
		l.fixed = append(l.fixed, scriptLimit{scales[i].text(), decimal(scales[i].perTick)})
	}
	l.takeOne = l.print(&change{n: 1})
	return l, nil
}

// args are the arguments for a change, only to be read.
func (l *scriptLimits) args(c *change) []any {
	if *c == (change{n: 1}) {
		return l.takeOne
	}
	return l.print(c)
}

func (l *scriptLimits) print(c *change) []any {
	args := make([]any, 0, 4*len(l.scales)+5)
	for i := range l.scales {
		room, cost := c.units(&l.scales[i])
		args = append(args, l.fixed[i].text, decimal(room), decimal(cost), l.fixed[i].perTick)
	}
	if c.ban != nil {
		args = append(args, c.ban.strikes.text(), c.ban.memory.text(), decimal(c.ban.first), decimal(c.ban.longest), "ban")
	}
	return args
}

// text is the scale as it stands in Redis.
func (s *scale) text() string {
	return decimal(s.capacity) + " " + decimal(s.token) + " " + decimal(s.perTick)
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }
