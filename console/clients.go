package console

import (
	"math"
	"slices"
)

const keptHashes = 512

// clients counts distinct keys in fixed memory: it keeps the smallest hashes (Bar-Yossef and others, 2002). Up to
// keptHashes keys that is exact; of more, how close together the hashes lie says about how many there are.
type clients struct {
	used   int
	hashes [keptHashes]uint64 // ascending
}

func (c *clients) add(hash uint64) {
	if c.used == keptHashes && hash >= c.hashes[keptHashes-1] {
		return
	}
	at, found := slices.BinarySearch(c.hashes[:c.used], hash)
	if found {
		return
	}
	c.used = min(c.used+1, keptHashes)
	copy(c.hashes[at+1:c.used], c.hashes[at:])
	c.hashes[at] = hash
}

// count returns how many there are, and the standard error of that as a part of it: 0 if it is exact.
func (c *clients) count() (n uint64, relativeError float64) {
	if c.used < keptHashes {
		return uint64(c.used), 0
	}
	return uint64((keptHashes - 1) * math.Exp2(64) / float64(c.hashes[keptHashes-1])), 1 / math.Sqrt(keptHashes-2)
}
