package tune

// Comparison is what other limits would decide otherwise.
type Comparison struct {
	// Refused is the requests that are refused in place of being admitted, and the clients that are refused at all and
	// were not before.
	Refused Refused
	// Admitted is the opposite.
	Admitted Refused
	ByRoute  []RouteComparison // as in Trace.Routes
}

// RouteComparison is the requests on a route that are decided otherwise.
type RouteComparison struct{ Refused, Admitted int }

// Compare replays the trace by two policies side by side.
func Compare(t *Trace, newer, older Policy, reading Reading) (Comparison, error) {
	c := Comparison{ByRoute: make([]RouteComparison, len(t.Routes))}
	before := make([]bool, 0, len(t.Requests)) // whether the older limits allow each request
	type refused struct{ before, after bool }
	clients := make([]refused, len(t.Clients))
	_, err := Replay(t, older, reading, func(r Request, allowed bool) {
		before = append(before, allowed)
		clients[r.Client].before = clients[r.Client].before || !allowed
	})
	if err != nil {
		return c, err
	}
	next := 0
	_, err = Replay(t, newer, reading, func(r Request, allowed bool) {
		if was := before[next]; was && !allowed {
			c.Refused.Requests++
			c.ByRoute[r.Route].Refused++
		} else if !was && allowed {
			c.Admitted.Requests++
			c.ByRoute[r.Route].Admitted++
		}
		next++
		clients[r.Client].after = clients[r.Client].after || !allowed
	})
	for _, client := range clients {
		switch {
		case client.after && !client.before:
			c.Refused.Clients++
		case client.before && !client.after:
			c.Admitted.Clients++
		}
	}
	return c, err
}
