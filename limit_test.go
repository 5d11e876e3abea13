package ratelimit_test

import (
	"encoding/json"
	"math"
	"math/big"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

func TestRateText(t *testing.T) {
	for text, rate := range map[string]ratelimit.Rate{
		"10/s":                    ratelimit.PerSecond(10),
		"100/m":                   ratelimit.PerMinute(100),
		"1000/h":                  ratelimit.PerHour(1000),
		"1000/d":                  ratelimit.PerDay(1000),
		"1/86.4s":                 ratelimit.Every(86400 * time.Millisecond),
		"7/3s":                    {Tokens: 7, Per: 3 * time.Second},
		"1/30d":                   ratelimit.Every(30 * 24 * time.Hour),
		"1/3650d":                 ratelimit.Every(3650 * 24 * time.Hour),
		"5/90m":                   {Tokens: 5, Per: 90 * time.Minute},
		"1/36h":                   ratelimit.Every(36 * time.Hour),
		"1/1ns":                   ratelimit.Every(1),
		"1/1.5µs":                 ratelimit.Every(1500),
		"3/250ms":                 {Tokens: 3, Per: 250 * time.Millisecond},
		"1/1.000000001s":          ratelimit.Every(time.Second + 1),
		"1/90.5s":                 ratelimit.Every(90500 * time.Millisecond),
		"2147483647/s":            ratelimit.PerSecond(math.MaxInt32),
		"1/9223372036.854775807s": ratelimit.Every(math.MaxInt64),
	} {
		t.Run(text, func(t *testing.T) {
			if got := rate.String(); got != text {
				t.Errorf("String: %q", got)
			}
			marshalled, err := rate.MarshalText()
			if err != nil || string(marshalled) != text {
				t.Errorf("MarshalText: %q, %v", marshalled, err)
			}
			var back ratelimit.Rate
			if err := back.UnmarshalText([]byte(text)); err != nil || back != rate {
				t.Errorf("UnmarshalText: %+v, %v", back, err)
			}
		})
	}
	for text, rate := range map[string]ratelimit.Rate{ // other ways to write it
		"10/1s":     ratelimit.PerSecond(10),
		"10/1000ms": ratelimit.PerSecond(10),
		"5/1h30m":   {Tokens: 5, Per: 90 * time.Minute},
		"1/24h":     ratelimit.PerDay(1),
		"1/1d":      ratelimit.PerDay(1),
		"1/1m26.4s": ratelimit.Every(86400 * time.Millisecond),
		"1/1.5us":   ratelimit.Every(1500),
	} {
		var got ratelimit.Rate
		if err := got.UnmarshalText([]byte(text)); err != nil || got != rate {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestRateTextErrors(t *testing.T) {
	const form = `: want tokens/period, as in "10/s", "100/m" or "1/86.4s"`
	for text, want := range map[string]string{
		"":                       `ratelimit: rate ""` + form,
		"10":                     `ratelimit: rate "10"` + form,
		"/s":                     `ratelimit: rate "/s"` + form,
		"10/":                    `ratelimit: rate "10/"` + form,
		"10/x":                   `ratelimit: rate "10/x"` + form,
		"10/10":                  `ratelimit: rate "10/10"` + form,
		"10/s/s":                 `ratelimit: rate "10/s/s"` + form,
		"1.5/s":                  `ratelimit: rate "1.5/s"` + form,
		"1e9/s":                  `ratelimit: rate "1e9/s"` + form,
		"ten/s":                  `ratelimit: rate "ten/s"` + form,
		"10 / s":                 `ratelimit: rate "10 / s"` + form,
		"10/1.5d":                `ratelimit: rate "10/1.5d"` + form,
		"10/-1d":                 `ratelimit: rate "10/-1d"` + form,
		"1/106752d":              `ratelimit: rate "1/106752d"` + form, // more than a Duration holds
		"1/4294967297d":          `ratelimit: rate "1/4294967297d"` + form,
		"1/9999999999h":          `ratelimit: rate "1/9999999999h"` + form,
		"10/s\r\nX: y":           `ratelimit: rate "10/s\r\nX: y"` + form,
		"99999999999999999999/s": `ratelimit: rate "99999999999999999999/s"` + form,
		"0/s":                    `ratelimit: refill rate 0/s: tokens must be at least 1, for example PerSecond(10)`,
		"-10/s":                  `ratelimit: refill rate -10/s: tokens must be at least 1, for example PerSecond(10)`,
		"10/0s":                  `ratelimit: refill rate 10/0s: the period must be positive, for example PerSecond(10)`,
		"10/-1s":                 `ratelimit: refill rate 10/-1s: the period must be positive, for example PerSecond(10)`,
		"10/0d":                  `ratelimit: refill rate 10/0s: the period must be positive, for example PerSecond(10)`,
	} {
		rate := ratelimit.PerSecond(1)
		err := rate.UnmarshalText([]byte(text))
		if err == nil || err.Error() != want {
			t.Errorf("%q: error\n     %v\nwant %s", text, err, want)
		}
		if rate != ratelimit.PerSecond(1) {
			t.Errorf("%q: an error changed the rate to %v", text, rate)
		}
	}
	long := strings.Repeat("9", 1<<20) + "/s"
	if err := new(ratelimit.Rate).UnmarshalText([]byte(long)); err == nil || len(err.Error()) > 300 {
		t.Errorf("a text of 1 MiB makes an error of %d bytes", len(err.Error()))
	}
	if text, err := (ratelimit.Rate{}).MarshalText(); err == nil {
		t.Errorf("the zero rate is %q", text)
	}
}

func TestLimitText(t *testing.T) {
	for text, limit := range map[string]ratelimit.Limit{
		"10/s":                    {Capacity: 10, Refill: ratelimit.PerSecond(10)},
		"100/m burst 200":         {Capacity: 200, Refill: ratelimit.PerMinute(100)},
		"1/86.4s burst 5000":      {Capacity: 5000, Refill: ratelimit.Every(86400 * time.Millisecond)},
		"10/s burst 1":            {Capacity: 1, Refill: ratelimit.PerSecond(10)},
		"1/3650d":                 {Capacity: 1, Refill: ratelimit.Every(3650 * 24 * time.Hour)},
		"1000000000/s burst 1000": {Capacity: 1000, Refill: ratelimit.PerSecond(1e9)},
	} {
		t.Run(text, func(t *testing.T) {
			if got := limit.String(); got != text {
				t.Errorf("String: %q", got)
			}
			marshalled, err := limit.MarshalText()
			if err != nil || string(marshalled) != text {
				t.Errorf("MarshalText: %q, %v", marshalled, err)
			}
			var back ratelimit.Limit
			if err := back.UnmarshalText([]byte(text)); err != nil || back != limit {
				t.Errorf("UnmarshalText: %+v, %v", back, err)
			}
		})
	}
	for text, limit := range map[string]ratelimit.Limit{ // other ways to write it
		" 10/s ":           {Capacity: 10, Refill: ratelimit.PerSecond(10)},
		"10/s burst 10":    {Capacity: 10, Refill: ratelimit.PerSecond(10)},
		"10/s  burst\t20 ": {Capacity: 20, Refill: ratelimit.PerSecond(10)},
	} {
		var got ratelimit.Limit
		if err := got.UnmarshalText([]byte(text)); err != nil || got != limit {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestLimitTextErrors(t *testing.T) {
	const burst = `: the burst must be a whole number, as in "100/m burst 200"`
	for text, want := range map[string]string{
		"":                      `ratelimit: rate "": want tokens/period, as in "10/s", "100/m" or "1/86.4s"`,
		"burst 10":              `ratelimit: rate "": want tokens/period, as in "10/s", "100/m" or "1/86.4s"`,
		"10/s 20":               `ratelimit: rate "10/s 20": want tokens/period, as in "10/s", "100/m" or "1/86.4s"`,
		"10/s burst":            `ratelimit: limit "10/s burst"` + burst,
		"10/s burst x":          `ratelimit: limit "10/s burst x"` + burst,
		"10/s burst 1.5":        `ratelimit: limit "10/s burst 1.5"` + burst,
		"10/s burst 5 burst 6":  `ratelimit: limit "10/s burst 5 burst 6"` + burst,
		"10/s burst 0":          `ratelimit: capacity 0 of limit "10/s burst 0": must be at least 1`,
		"10/s burst -1":         `ratelimit: capacity -1 of limit "10/s burst -1": must be at least 1`,
		"0/s burst 5":           `ratelimit: refill rate 0/s: tokens must be at least 1, for example PerSecond(10)`,
		"1/3650d burst 1000000": `ratelimit: capacity 1000000 of limit "1/3650d burst 1000000": at this rate at most 14 can be counted exactly; lower the capacity, or use a rate with rounder numbers`,
	} {
		limit := ratelimit.Limit{Capacity: 7, Refill: ratelimit.PerSecond(1)}
		err := limit.UnmarshalText([]byte(text))
		if err == nil || err.Error() != want {
			t.Errorf("%q: error\n     %v\nwant %s", text, err, want)
		}
		if limit.Capacity != 7 || limit.Refill != ratelimit.PerSecond(1) {
			t.Errorf("%q: an error changed the limit to %v", text, limit)
		}
	}
	for _, bad := range []ratelimit.Limit{{}, {Capacity: 1}, {Refill: ratelimit.PerSecond(1)}, {Capacity: -1, Refill: ratelimit.PerSecond(1)}} {
		if text, err := bad.MarshalText(); err == nil {
			t.Errorf("%+v is %q", bad, text)
		}
	}
}

func TestLimitInJSON(t *testing.T) {
	type config struct {
		Limit  ratelimit.Limit            `json:"limit"`
		Rate   ratelimit.Rate             `json:"rate"`
		Plans  map[string]ratelimit.Limit `json:"plans"`
		Owners map[ratelimit.Limit]string `json:"owners"`
	}
	const text = `{"limit":"100/m burst 200","rate":"1/86.4s","plans":{"free":"10/s"},"owners":{"7/3s":"ops"}}`
	var c config
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	if want := (ratelimit.Limit{Capacity: 200, Refill: ratelimit.PerMinute(100)}); c.Limit != want {
		t.Errorf("limit %v", c.Limit)
	}
	back, err := json.Marshal(c)
	if err != nil || string(back) != text {
		t.Errorf("%s, %v", back, err)
	}
	for _, bad := range []string{`{"limit":"nonsense"}`, `{"limit":10}`, `{"rate":"0/s"}`, `{"plans":{"free":""}}`} {
		if err := json.Unmarshal([]byte(bad), new(config)); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
	if _, err := json.Marshal(config{}); err == nil {
		t.Error("the zero limit was written")
	}
}

func TestLimitValidate(t *testing.T) {
	const must = "must be at least 1"
	for _, c := range []struct {
		limit ratelimit.Limit
		want  string // in the error, "" for none
	}{
		{ratelimit.Limit{Capacity: 1, Refill: ratelimit.PerSecond(1)}, ""},
		{ratelimit.Limit{Capacity: 1e9, Refill: ratelimit.PerSecond(1e9)}, ""},
		{ratelimit.Limit{Capacity: 1, Refill: ratelimit.Every(1)}, ""},
		{ratelimit.Limit{Capacity: 14, Refill: ratelimit.Every(3650 * 24 * time.Hour)}, ""},
		{ratelimit.Limit{Capacity: 15, Refill: ratelimit.Every(3650 * 24 * time.Hour)}, "at most 14 can be counted exactly"},
		{ratelimit.Limit{Capacity: 5000, Refill: ratelimit.Every(86400 * time.Millisecond)}, ""},
		{ratelimit.Limit{Capacity: math.MaxInt32, Refill: ratelimit.PerSecond(math.MaxInt32)}, ""},
		{ratelimit.Limit{Capacity: math.MaxInt32, Refill: ratelimit.Rate{Tokens: math.MaxInt32, Per: 1}}, ""},
		{ratelimit.Limit{Capacity: 1, Refill: ratelimit.Every(math.MaxInt64)}, "counted"},
		{ratelimit.Limit{Capacity: math.MaxInt, Refill: ratelimit.Rate{Tokens: 1, Per: math.MaxInt64}}, "counted"},
		{ratelimit.Limit{Capacity: 1, Refill: ratelimit.Every(60*24*time.Hour + 1)}, "counted"},
		{ratelimit.Limit{Capacity: 0, Refill: ratelimit.PerSecond(1)}, must},
		{ratelimit.Limit{Capacity: -1, Refill: ratelimit.PerSecond(1)}, must},
		{ratelimit.Limit{Capacity: math.MinInt, Refill: ratelimit.PerSecond(1)}, must},
		{ratelimit.Limit{Capacity: 1, Refill: ratelimit.PerSecond(0)}, "tokens " + must},
		{ratelimit.Limit{Capacity: 1, Refill: ratelimit.PerSecond(math.MinInt)}, "tokens " + must},
		{ratelimit.Limit{Capacity: 1, Refill: ratelimit.Every(0)}, "the period must be positive"},
		{ratelimit.Limit{Capacity: 1, Refill: ratelimit.Every(-time.Second)}, "the period must be positive"},
		{ratelimit.Limit{Capacity: 1, Refill: ratelimit.Every(math.MinInt64)}, "the period must be positive"},
		{ratelimit.Limit{}, "tokens " + must},
	} {
		err := c.limit.Validate()
		if c.want == "" && err != nil {
			t.Errorf("%v: %v", c.limit, err)
		}
		if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "ratelimit: ")) {
			t.Errorf("%v: error %v, want %q", c.limit, err, c.want)
		}
	}
	if err := (ratelimit.Limit{Capacity: 1, Refill: ratelimit.Every(math.MaxInt64)}).Validate(); strings.Contains(err.Error(), "too fast") {
		t.Errorf("one token in 292 years: %v", err)
	}
	if strconv.IntSize == 64 {
		fast := ratelimit.Limit{Capacity: 1, Refill: ratelimit.Rate{Tokens: math.MaxInt, Per: 1}}
		if err := fast.Validate(); err == nil || !strings.Contains(err.Error(), "too fast to be counted") {
			t.Errorf("%v: %v", fast, err)
		}
	}
}

// Validate accepts exactly the limits that fit 2^52 units, and their text form is read as the same limit.
func FuzzLimit(f *testing.F) {
	f.Add(10, 10, int64(time.Second))
	f.Add(5000, 1, int64(86400*time.Millisecond))
	f.Add(7, 7, int64(3*time.Second))
	f.Add(14, 1, int64(3650*24*time.Hour))
	f.Add(15, 1, int64(3650*24*time.Hour))
	f.Add(math.MaxInt32, math.MaxInt32, int64(1))
	f.Add(1, 1, int64(math.MaxInt64))
	f.Add(-1, 0, int64(-1))
	f.Fuzz(func(t *testing.T, capacity, tokens int, per int64) {
		limit := ratelimit.Limit{Capacity: capacity, Refill: ratelimit.Rate{Tokens: tokens, Per: time.Duration(per)}}
		fits := capacity > 0 && tokens > 0 && per > 0
		if fits {
			rate := new(big.Rat).Mul(big.NewRat(int64(tokens), per), big.NewRat(1000, 1)) // a microsecond, in lowest terms
			maxUnits := new(big.Int).Lsh(big.NewInt(1), 52)
			size := new(big.Int).Mul(big.NewInt(int64(capacity)), rate.Denom())
			fits = size.Cmp(maxUnits) <= 0 && rate.Num().Cmp(maxUnits) <= 0
		}
		err := limit.Validate()
		if (err == nil) != fits {
			t.Fatalf("%+v: %v, but fits is %v", limit, err, fits)
		}
		text, textErr := limit.MarshalText()
		if (textErr == nil) != fits {
			t.Fatalf("%+v is %q, %v", limit, text, textErr)
		}
		if !fits {
			return
		}
		var back ratelimit.Limit
		if err := back.UnmarshalText(text); err != nil || back != limit {
			t.Errorf("%+v is %q, which is %+v, %v", limit, text, back, err)
		}
	})
}

// Any text is an error, or a valid limit, whose own text is read as the same limit.
func FuzzLimitText(f *testing.F) {
	for _, text := range []string{"10/s", "100/m burst 200", "1/86.4s burst 5000", "7/3s", "1/30d", "5/1h30m", "", "/", "burst", "1/1nsburst1", "+1/+1h", "1/.5s"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var limit, back ratelimit.Limit
		if err := limit.UnmarshalText([]byte(text)); err != nil {
			if !strings.HasPrefix(err.Error(), "ratelimit: ") || limit != (ratelimit.Limit{}) {
				t.Fatalf("%q: %v, and a limit of %+v", text, err, limit)
			}
			return
		}
		if err := limit.Validate(); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if err := back.UnmarshalText([]byte(limit.String())); err != nil || back != limit {
			t.Errorf("%q is %+v, and its text %q is %+v, %v", text, limit, limit, back, err)
		}
	})
}
