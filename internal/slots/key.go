package slots

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"math/rand/v2"
	"unsafe"
)

// Key is a key as slots hold it: up to 15 bytes as they are, a longer one as 120 bits of two hashes with random seeds,
// so that clients cannot choose keys that collide.
//
//	          key1                                     key0
//	byte      15         14 … 8                        7 … 0
//	short     length+1   bytes 15 … 9 of the key       bytes 8 … 1 of the key     unused bytes are 0
//	long      0xff       56 bits of the second hash    the first hash
//
// The top byte of key1 is never 0, so key1 == 0 marks a free slot.
type Key struct {
	key0, key1 uint64
	hash       uint64
}

const (
	inlineKey = 15   // length of the longest key that a slot holds as it is
	hashedKey = 0xff // marks a longer key, in place of its length
)

// Shard is the index of the key's shard. The number of shards is a power of two.
func (k *Key) Shard(shards int) int {
	return int(k.hash >> 32 & uint64(shards-1)) // The low bits choose the slot.
}

// Seeds make a store's hashes its own.
type Seeds struct {
	words      [3]uint64
	long, more maphash.Seed
}

// NewSeeds returns random seeds.
func NewSeeds() Seeds {
	return Seeds{[3]uint64{rand.Uint64(), rand.Uint64(), rand.Uint64()}, maphash.MakeSeed(), maphash.MakeSeed()}
}

// Key returns a key as slots hold it.
func (s *Seeds) Key(key string) Key {
	if len(key) > inlineKey {
		return s.hashed(maphash.String(s.long, key), maphash.String(s.more, key)>>8|hashedKey<<56)
	}
	key0, key1 := uint64(0), uint64(len(key)+1)<<56 // Plus 1, so that the key "" is not a free slot.
	// Two loads that may overlap: copying to a buffer of 16 bytes first costs as much as a hash. Of a key of 10 bytes
	// the second load is bytes 3 to 10, and the shift drops those that the first has loaded already:
	//
	//	key            1 2 3 4 5 6 7 8 9 10
	//	first load     [--------------]           key0
	//	second load        [---------------]      >> 8·(16−10) leaves 9 and 10 in key1
	bytes := unsafe.Slice(unsafe.StringData(key), len(key))
	if len(bytes) >= 8 {
		key0 = binary.LittleEndian.Uint64(bytes)
		key1 |= binary.LittleEndian.Uint64(bytes[len(bytes)-8:]) >> (8 * (16 - len(bytes)))
	} else {
		for i, b := range bytes {
			key0 |= uint64(b) << (8 * i)
		}
	}
	return s.hashed(key0, key1)
}

// hashed mixes the words of a key as the runtime does for maps on processors without AES (wyhash). maphash would take
// twice as long for two words.
func (s *Seeds) hashed(key0, key1 uint64) Key {
	return Key{key0, key1, mix(s.words[2], mix(key0^s.words[0], key1^s.words[1]))}
}

func mix(a, b uint64) uint64 {
	high, low := bits.Mul64(a, b)
	return high ^ low
}
