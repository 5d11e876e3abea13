package tune

import (
	"bytes"
	"math"
	"strconv"
	"time"
)

// Steps of stamps, in microseconds.
const (
	second      = 1_000_000
	millisecond = 1_000
	microsecond = 1
)

// parseStamp reads a time as logs write it: that of the Common Log Format, RFC 3339 with or without a zone (then UTC),
// or Unix seconds, milli-, micro- or nanoseconds, which their size tells apart. What is finer than a microsecond is cut
// off. The step is what the text could have shown, and no less than a microsecond.
func parseStamp(text []byte) (tick, step int64, ok bool) {
	if n := len(text); n > 2 && text[0] == '[' && text[n-1] == ']' {
		text = text[1 : n-1]
	}
	switch {
	case len(text) >= len("02/Jan/2006:15:04:05") && text[2] == '/':
		return commonStamp(text)
	case len(text) >= len("2006-01-02T15:04:05") && text[4] == '-':
		return isoStamp(text)
	default:
		return unixStamp(text)
	}
}

// commonStamp reads "02/Jan/2006:15:04:05 -0700", where a fraction may follow the second.
func commonStamp(text []byte) (tick, step int64, ok bool) {
	if len(text) < len("02/Jan/2006:15:04:05") || text[2] != '/' || text[6] != '/' || text[11] != ':' {
		return 0, 0, false
	}
	tick, ok = civil(four(text[7:]), month(text[3:6]), two(text), text[12:20], time.UTC)
	rest, fraction, step := fraction(text[20:])
	if !ok || len(rest) < 1 || rest[0] != ' ' {
		return 0, 0, false
	}
	zone, ok := zoneOf(rest[1:])
	return tick + fraction - zone, step, ok
}

// isoStamp reads "2006-01-02T15:04:05Z07:00", also with a space for the T, a fraction, or without a zone.
func isoStamp(text []byte) (tick, step int64, ok bool) {
	if len(text) < len("2006-01-02T15:04:05") || text[4] != '-' || text[7] != '-' || text[10] != 'T' && text[10] != ' ' {
		return 0, 0, false
	}
	tick, ok = civil(four(text), two(text[5:]), two(text[8:]), text[11:19], time.UTC)
	rest, fraction, step := fraction(text[19:])
	if !ok {
		return 0, 0, false
	}
	zone, ok := zoneOf(bytes.TrimPrefix(rest, []byte{' '}))
	return tick + fraction - zone, step, ok || len(rest) == 0
}

// unixStamp reads seconds, milli-, micro- or nanoseconds since 1970. Up to the year 5138 their sizes do not overlap, but
// for times before March 1973.
func unixStamp(text []byte) (tick, step int64, ok bool) {
	whole, part, _ := bytes.Cut(text, []byte{'.'})
	if len(whole) == 0 || len(whole) > 19 {
		return 0, 0, false
	}
	for _, b := range text[:len(whole)] {
		if !digit(b) {
			return 0, 0, false
		}
		tick = tick*10 + int64(b-'0')
	}
	rest, fraction, step := fraction(text[len(whole):])
	if len(rest) > 0 || tick < 0 {
		return 0, 0, false
	}
	switch {
	case tick < 1e11:
		return tick*second + fraction, step, true
	case tick < 1e14 && len(part) > 0:
		return tick*millisecond + fraction/millisecond, microsecond, true
	case tick < 1e14:
		return tick * millisecond, millisecond, true
	case tick < 1e17:
		return tick, microsecond, true
	default:
		return tick / 1000, microsecond, true
	}
}

// civil puts a date and "15:04:05" together. Numbers that are none are negative.
func civil(year, month, day int, clock []byte, zone *time.Location) (tick int64, ok bool) {
	h, m, s := two(clock), two(clock[3:]), two(clock[6:])
	if clock[2] != ':' || clock[5] != ':' || year < 0 || month < 1 || month > 12 || day < 1 || h < 0 || h > 23 || m < 0 || m > 59 || s < 0 || s > 59 {
		return 0, false
	}
	at := time.Date(year, time.Month(month), day, h, m, s, 0, zone)
	if day > 28 && at.Day() != day { // As in 31 June.
		return 0, false
	}
	return at.UnixMicro(), true
}

// fraction reads the digits behind a point or a comma, as microseconds, and the step that so many digits can show.
func fraction(text []byte) (rest []byte, ticks, step int64) {
	if len(text) < 2 || text[0] != '.' && text[0] != ',' || !digit(text[1]) {
		return text, 0, second
	}
	digits, unit := 0, int64(second)
	for text = text[1:]; len(text) > 0 && digit(text[0]); text = text[1:] {
		unit /= 10
		ticks += int64(text[0]-'0') * unit
		digits++
	}
	if digits <= 3 {
		return text, ticks, millisecond
	}
	return text, ticks, microsecond
}

// zoneOf reads "Z", "-0700" or "-07:00" as what the zone is ahead of UTC.
func zoneOf(text []byte) (ticks int64, ok bool) {
	if len(text) == 1 && text[0] == 'Z' {
		return 0, true
	}
	if len(text) == 6 && text[3] == ':' {
		text = []byte{text[0], text[1], text[2], text[4], text[5]}
	}
	if len(text) != 5 || text[0] != '+' && text[0] != '-' {
		return 0, false
	}
	h, m := two(text[1:]), two(text[3:])
	if h < 0 || h > 23 || m < 0 || m > 59 {
		return 0, false
	}
	ticks = int64(h*60+m) * 60 * second
	if text[0] == '-' {
		return -ticks, true
	}
	return ticks, true
}

// month is 1 to 12 for "Jan" to "Dec", and else 0.
func month(name []byte) int {
	const names = "JanFebMarAprMayJunJulAugSepOctNovDec"
	for i := 0; i < len(names); i += 3 {
		if names[i] == name[0] && names[i+1] == name[1] && names[i+2] == name[2] {
			return i/3 + 1
		}
	}
	return 0
}

// two reads two digits; -1 if they are none.
func two(text []byte) int {
	tens, ones := text[0]-'0', text[1]-'0'
	if tens > 9 || ones > 9 {
		return -1
	}
	return int(tens)*10 + int(ones)
}

// four reads four digits; negative if they are none.
func four(text []byte) int {
	high, low := two(text), two(text[2:])
	if low < 0 {
		return -1
	}
	return high*100 + low
}

func digit(b byte) bool { return b >= '0' && b <= '9' }

// durationTicks reads a duration with a unit, as in "1.5ms", or without one, in the unit that is given.
func durationTicks(text []byte, unit time.Duration) (ticks int64, ok bool) {
	const longest = 365 * 24 * time.Hour
	if n, err := strconv.ParseFloat(string(text), 64); err == nil {
		nanoseconds := n * float64(unit)
		return int64(math.Round(nanoseconds / 1000)), nanoseconds >= 0 && nanoseconds < float64(longest)
	}
	d, err := time.ParseDuration(string(text))
	return d.Microseconds(), err == nil && d >= 0 && d < longest
}

// costTokens reads a cost, of which a part of a token counts as a whole one.
func costTokens(text []byte) (tokens int32, ok bool) {
	n, err := strconv.ParseFloat(string(text), 64)
	n = math.Ceil(n)
	if err != nil || !(n >= 0 && n <= math.MaxInt32) { // Not a number is neither.
		return 0, false
	}
	return int32(n), true
}
