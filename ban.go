package ratelimit

import (
	"time"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// Ban shuts a key out whose requests keep coming although they are refused: After refusals in quick succession start a
// ban of For. If that happens again soon after the ban, the next one is twice as long, and so on up to Max. In time,
// earlier bans are forgotten. During a ban a take is refused and changes nothing. The zero Ban is none.
//
// Fewer than After refusals within any Within never start a ban, and twice as many always do; between the two
// it depends on how they are spread.
//
// It is two more token buckets beside the key's own. One holds After strikes and refills by After per Within;
// a refusal takes one, and the last starts the ban, as a debt that refills exactly over its length. The other
// remembers: when a ban ends, twice its length is missing, which refills in as much time, and the next ban is
// as long as what is missing then.
type Ban struct {
	After  int           // refusals, at least 1
	Within time.Duration // in which they count, positive
	For    time.Duration // the length of the first ban
	Max    time.Duration // the length of the longest; 0 is For, so that bans do not grow
}

// maxBan keeps three times a ban, in microseconds, within a bucket.
const maxBan = 10 * 365 * day

func (b Ban) withDefaults() Ban {
	if b.Max == 0 {
		b.Max = b.For
	}
	return b
}

// Validate reports why b cannot be kept to. The zero Ban is valid.
func (b Ban) Validate() error {
	if b == (Ban{}) {
		return nil
	}
	_, err := b.scales()
	return err
}

// scales returns b in units.
func (b Ban) scales() (*bucket.Ban, error) {
	b = b.withDefaults()
	if b.For < time.Microsecond || b.Max < b.For || b.Max > maxBan {
		return nil, errorf("ban of %v up to %v: For must be positive, and Max from For to %v", b.For, b.Max, maxBan)
	}
	if b.After < 1 || b.Within <= 0 {
		return nil, errorf("ban after %d refusals within %v: After must be at least 1, and Within positive, for example 50 within 1m", b.After, b.Within)
	}
	strikes, err := scaleOf(Limit{Capacity: b.After, Refill: Rate{b.After, b.Within}})
	if err != nil {
		return nil, errorf("ban after %d refusals within %v: cannot be counted exactly; lower After or Within", b.After, b.Within)
	}
	ban, ok := bucket.NewBan(strikes, int64(b.For/time.Microsecond), int64(b.Max/time.Microsecond))
	if !ok {
		return nil, errorf("ban after %d refusals within %v: a ban of %v cannot be counted; lower After or Max", b.After, b.Within, b.Max)
	}
	return &ban, nil
}
