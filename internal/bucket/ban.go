package bucket

// Ban is two more buckets beside a key's own: one holds strikes, of which a refusal takes one; the other remembers
// earlier bans. The root package's Ban describes them to its users.
type Ban struct {
	Strikes, Memory Scale
	First, Longest  int64 // ticks of the first ban, and of the longest
}

// NewBan returns a ban that begins with the last of so many strikes. It is not ok if its longest debt cannot be counted.
func NewBan(strikes Scale, first, longest int64) (ban Ban, ok bool) {
	if longest > (MaxDeficit-strikes.Size())/strikes.PerTick {
		return Ban{}, false
	}
	return Ban{
		Strikes: strikes,
		Memory:  Scale{Capacity: 3 * longest, Token: 1, PerTick: 1},
		First:   first,
		Longest: longest,
	}, true
}

// Left is the number of ticks until the key is no longer shut out: the strikes are in debt for exactly that long.
func (b *Ban) Left(strikes int64) int64 { return b.Strikes.UntilSolvent(strikes) }

// Strike counts a refusal, which may start a ban. It takes and returns the deficits of both buckets.
func (b *Ban) Strike(strikes, memory int64) (int64, int64) {
	strikes += b.Strikes.Token
	if strikes <= b.Strikes.Size()-b.Strikes.Token {
		return strikes, memory
	}
	length := min(max(b.First, memory), b.Longest)
	return b.Strikes.Size() + b.Strikes.RefillIn(length), 3 * length
}
