package limitconfig

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// Mistake is one mistake in a document, in the errors of [Load], [Config.Replace] and [Config.Check]. Those
// join many; their Unwrap() []error returns each.
type Mistake struct {
	Line    int    // from 1; 0 if the parser does not report it
	Field   string // for example plans["pro"].routes["GET /x"][1]; "" for the document
	Problem string // what is wrong, and what to write instead
}

// Error returns, for example,
//
//	limitconfig: line 7: plans["pro"]: rate "10": want tokens/period, as in "10/s", "100/m" or "1/86.4s"
func (m *Mistake) Error() string {
	text := "limitconfig: "
	if m.Line > 0 {
		text += fmt.Sprintf("line %d: ", m.Line)
	}
	if m.Field != "" {
		text += m.Field + ": "
	}
	return text + m.Problem
}

// mistakes collects the mistakes of a document.
type mistakes []*Mistake

func (ms *mistakes) add(line int, field, format string, args ...any) {
	*ms = append(*ms, &Mistake{Line: line, Field: field, Problem: fmt.Sprintf(format, args...)})
}

// err joins the mistakes in the order of the document. It is bounded, because a wrong file may be a long one.
func (ms mistakes) err() error {
	const maxMistakes = 100
	slices.SortStableFunc(ms, func(a, b *Mistake) int { return cmp.Compare(a.Line, b.Line) })
	var errs []error
	for _, m := range ms[:min(maxMistakes, len(ms))] {
		errs = append(errs, m)
	}
	if further := len(ms) - maxMistakes; further > 0 {
		errs = append(errs, fmt.Errorf("limitconfig: and %d more", further))
	}
	return errors.Join(errs...)
}

// clip shortens text that a mistake quotes, because a document may hold anything.
func clip(text string) string {
	const maxLength = 64
	if len(text) <= maxLength {
		return text
	}
	return text[:maxLength] + "…"
}
