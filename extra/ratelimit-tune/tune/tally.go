package tune

// Tally counts the decisions of a [Replay]: pass its Add.
type Tally struct {
	Refused     int
	First, Last int64 // ticks of the first and the last request that was refused
	Busiest     int64 // tick of the minute in which most were refused; the first of several
	InBusiest   int   // refused in it

	ByRoute  []int         // refused, as in Trace.Routes
	ByClient []ClientTally // as in Trace.Clients
	Steps    []StepTally   // over the time of the trace

	start, step, minute int64
	inMinute            int
}

// ClientTally is what a client has asked for.
type ClientTally struct {
	Requests, Refused int
	Succeeded         int // answered by a status from 200 to 299, says the log
}

// StepTally is what was decided in a step of the time.
type StepTally struct{ Admitted, Refused int }

const minute = 60 * second

// steps is how many steps a tally divides the time of a trace into, at most.
const steps = 150

// NewTally returns an empty tally for the trace.
func NewTally(t *Trace) *Tally {
	y := &Tally{ByRoute: make([]int, len(t.Routes)), ByClient: make([]ClientTally, len(t.Clients)), step: second}
	if n := len(t.Requests); n > 0 {
		first, last := t.Requests[0].Tick, t.Requests[n-1].Tick+t.Resolution.Microseconds()
		for _, seconds := range []int64{1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400} {
			if y.step = seconds * second; (last-first)/y.step < steps-1 {
				break
			}
		}
		for (last-first)/y.step >= steps-1 {
			y.step *= 2
		}
		y.start = first - first%y.step
		y.Steps = make([]StepTally, (last-y.start)/y.step+1)
	}
	return y
}

// Span returns the tick at which the first of Steps begins, and how many ticks each takes.
func (y *Tally) Span() (start, step int64) { return y.start, y.step }

// Add counts a decision. Requests come in the order of their time, but for the step of their stamps.
func (y *Tally) Add(r Request, allowed bool) {
	client, step := &y.ByClient[r.Client], &y.Steps[(r.Tick-y.start)/y.step]
	client.Requests++
	if r.Status >= 200 && r.Status <= 299 {
		client.Succeeded++
	}
	if allowed {
		step.Admitted++
		return
	}
	client.Refused++
	step.Refused++
	y.ByRoute[r.Route]++
	if y.Refused == 0 || r.Tick < y.First {
		y.First = r.Tick
	}
	y.Refused++
	y.Last = max(y.Last, r.Tick)
	if now := r.Tick - r.Tick%minute; now > y.minute {
		y.minute, y.inMinute = now, 0
	}
	y.inMinute++
	if y.inMinute > y.InBusiest {
		y.Busiest, y.InBusiest = y.minute, y.inMinute
	}
}
