package ratelimit

import (
	"context"
	"errors"
	"io"
	"net"
	"time"
)

// Event is what an observer receives about one decision, or about tokens that could not be given back
// ([ReasonGiveBack]); see [WithObserver].
type Event struct {
	Name    string        // the limiter's
	Route   string        // the route's pattern, "/users/:id"; "" for no route and outside of a request
	Key     Key           // what was counted against; prints as a digest
	Cost    int           // tokens asked for, or to be given back
	Result  Result        // the decision; zero if Err is not nil
	Err     error         // why there was none
	Reason  Reason        // the decision in one word
	Elapsed time.Duration // how long the store took
	Waited  time.Duration // how long the request was held back before it went on; see WithMaxWait
	Waiting int           // how many requests this limiter holds back right now
}

// Reason is one word for how a request was decided. The words are few and fixed, so they fit a metric's label.
type Reason string

// The reasons of an Event.
const (
	ReasonAllowed  Reason = "allowed"
	ReasonRefused  Reason = "refused"   // the bucket holds too few tokens
	ReasonCost     Reason = "cost"      // refused: the cost is above the capacity, so waiting does not help
	ReasonOverflow Reason = "overflow"  // refused: the store had no room for the key, and the shared bucket is empty
	ReasonNoKey    Reason = "no_key"    // refused: the request had no key, and the bucket of such requests is empty
	ReasonBanned   Reason = "banned"    // refused: the key is shut out; see WithBan
	ReasonShadow   Reason = "shadow"    // let through, but would have been refused; see WithShadow
	ReasonGone     Reason = "gone"      // given up: the client left while the request was held back; see WithMaxWait
	ReasonStore    Reason = "store"     // no decision: the store could not be asked
	ReasonForeign  Reason = "foreign"   // no decision: the store holds something else under the key
	ReasonArgument Reason = "argument"  // no decision: the cost or a limit is invalid
	ReasonGiveBack Reason = "give_back" // tokens could not be given back; see Event.Err
)

// Refused reports whether the request was refused. A request whose client left while it was held back was not.
func (e Event) Refused() bool { return e.Err == nil && !e.Result.Allowed && e.Reason != ReasonGone }

func reasonOf(d *decision, err error) Reason {
	r := d.result
	switch {
	case errors.Is(err, ErrArgument):
		return ReasonArgument
	case errors.Is(err, ErrForeignState):
		return ReasonForeign
	case err != nil:
		return ReasonStore
	case d.gone:
		return ReasonGone
	case r.Allowed:
		return ReasonAllowed
	case d.mode == Shadow:
		return ReasonShadow
	case r.Banned:
		return ReasonBanned
	case r.RetryAfter == Never:
		return ReasonCost
	case r.Source == SourceOverflow:
		return ReasonOverflow
	case d.key == "":
		return ReasonNoKey
	default:
		return ReasonRefused
	}
}

// ErrorKind is one word, fit for a label, for why a store could not decide: "timeout", "canceled", "network"
// (unreachable, or the connection broke), "reply" (Redis answered with an error), "foreign" ([ErrForeignState]),
// "argument" ([ErrArgument]), or "other"; "" for nil.
func ErrorKind(err error) string {
	if err == nil {
		return ""
	}
	netErr, isNet := errors.AsType[net.Error](err)
	_, isReply := errors.AsType[interface {
		error
		RedisError() // go-redis marks the server's errors with it.
	}](err)
	switch {
	case errors.Is(err, ErrArgument):
		return "argument"
	case errors.Is(err, ErrForeignState):
		return "foreign"
	case isNet && netErr.Timeout():
		return "timeout" // So is context.DeadlineExceeded.
	case errors.Is(err, context.Canceled):
		return "canceled"
	case isNet, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return "network"
	case isReply:
		return "reply"
	default:
		return "other"
	}
}
