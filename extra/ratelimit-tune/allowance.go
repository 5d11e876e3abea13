package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// allowances are what a replay may refuse before the exit code is 3.
type allowances struct{ clients, requests allowance }

func (a *allowances) given() bool { return a.clients.given || a.requests.given }

// allowance is a count or a percentage.
type allowance struct {
	given   bool
	percent bool
	most    float64
}

// String returns what was given.
func (a *allowance) String() string {
	if a == nil || !a.given {
		return ""
	}
	text := strconv.FormatFloat(a.most, 'g', -1, 64)
	if a.percent {
		text += "%"
	}
	return text
}

// Set reads "12" or "0.5%".
func (a *allowance) Set(text string) error {
	number, percent := strings.CutSuffix(text, "%")
	most, err := strconv.ParseFloat(number, 64)
	if err != nil || !(most >= 0) || percent && most > 100 || !percent && most != math.Trunc(most) {
		return fmt.Errorf("give a count as in 12, or a percentage as in 0.5%%")
	}
	*a = allowance{true, percent, most}
	return nil
}

// exceeded reports whether a number of all is more than the allowance.
func (a *allowance) exceeded(refused, all int) bool {
	switch {
	case !a.given:
		return false
	case a.percent:
		return float64(refused)*100 > a.most*float64(all)
	default:
		return float64(refused) > a.most
	}
}

// exceeded is the error of a replay that refuses more than it may.
type exceeded struct{ text string }

func (e *exceeded) Error() string { return e.text }

// judge returns an error if the report refuses more than is allowed, by the reading of its stamps that refuses more.
func (a *allowances) judge(r *report) error {
	if !a.given() {
		return nil
	}
	if r.replay == nil {
		return errors.New("ratelimit-tune: -max-refused-clients and -max-refused-requests have nothing to judge: the logs have no requests")
	}
	what, worst := "refused", r.worst()
	if r.compare != nil {
		what = "newly refused"
	}
	for _, part := range []struct {
		allowed      *allowance
		refused, all int
		thing        string
	}{
		{&a.requests, worst.Requests, len(r.trace.Requests), "request"},
		{&a.clients, worst.Clients, len(r.trace.Clients), "client"},
	} {
		if part.allowed.exceeded(part.refused, part.all) {
			return &exceeded{fmt.Sprintf("ratelimit-tune: %s %s, more than -max-refused-%ss %v", share(part.refused, part.all, part.thing), what, part.thing, part.allowed)}
		}
	}
	return nil
}
