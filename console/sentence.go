package console

import (
	"fmt"
	"strings"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

// sentence says what a key's buckets mean for its next request, which costs one token. ban is the limiter's.
func sentence(u ratelimit.Usage, ban ratelimit.Ban, now time.Time) string {
	var parts []string
	if u.BannedFor > 0 {
		parts = append(parts, fmt.Sprintf("Banned until %s, for another %s.", clock(now.Add(u.BannedFor)), span(u.BannedFor)))
	}
	for _, l := range u.Limits {
		state := "Allowed"
		if l.Remaining < 1 {
			state = "Refused"
		}
		text := fmt.Sprintf("%s by %s: %d of %d tokens left", state, l.Limit, l.Remaining, l.Limit.Capacity)
		if l.Debt > 0 {
			text += fmt.Sprintf(" and %d owed", l.Debt)
		}
		if l.NextToken > 0 {
			text += fmt.Sprintf(", next in %s, full in %s", span(l.NextToken), span(l.ResetAfter))
		}
		parts = append(parts, text+".")
	}
	switch {
	case u.BannedFor > 0:
	case ban.After > 0:
		parts = append(parts, fmt.Sprintf("Not banned: %d of %s.", u.Strikes, count(ban.After, "strike")))
	default:
		parts = append(parts, "Not banned: this limiter bans nobody.")
	}
	if u.Static {
		parts = append(parts, "The store holds nothing for this key, so it would start with full buckets; it may also be another key that was meant.")
	}
	return strings.Join(parts, " ")
}

func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%.3g s", d.Seconds())
	default:
		return d.Round(time.Second).String()
	}
}

func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

func count[N int | int64](n N, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
