package iplist

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
)

func TestContains(t *testing.T) {
	list := MustNew("10.0.0.0/8", " 192.0.2.7 ", "::ffff:198.51.100.0/120", "::ffff:203.0.113.9", "2001:db8::/32", "fe80::1")
	for addr, want := range map[string]bool{
		"10.0.0.0":              true,
		"10.255.255.255":        true,
		"11.0.0.0":              false,
		"192.0.2.7":             true,
		"192.0.2.8":             false,
		"::ffff:192.0.2.7":      true, // by bits, not by spelling
		"::ffff:c000:207":       true,
		"::ffff:192.0.2.7%eth0": true,
		"198.51.100.200":        true, // an entry in mapped form
		"198.51.101.0":          false,
		"203.0.113.9":           true,
		"2001:db8:1::1":         true,
		"2001:db8:1::1%eth0":    true,
		"2001:db9::":            false,
		"fe80::1%eth0":          true,
		"fe80::2":               false,
		"::":                    false,
	} {
		if got := list.Contains(netip.MustParseAddr(addr)); got != want {
			t.Errorf("Contains(%s) = %v", addr, got)
		}
	}
	for _, list := range []*List{list, new(List), MustNew("0.0.0.0/0", "::/0")} {
		if list.Contains(netip.Addr{}) {
			t.Error("the zero Addr is on a list")
		}
	}
}

func TestEverythingIsOneFamily(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::1")
	for entry, want := range map[string][2]bool{
		"0.0.0.0/0":         {true, false},
		"::ffff:0.0.0.0/96": {true, false},
		"::/0":              {false, true},
	} {
		list := MustNew(entry)
		if got := [2]bool{list.Contains(v4), list.Contains(v6)}; got != want {
			t.Errorf("%s contains IPv4, IPv6: %v", entry, got)
		}
	}
}

func TestLenCountsDifferentEntries(t *testing.T) {
	list := MustNew("192.0.2.7", "192.0.2.7/32", "::ffff:192.0.2.7", "192.0.2.0/24", "2001:db8::", "2001:DB8:0::0/128")
	if list.Len() != 3 {
		t.Errorf("Len() = %d", list.Len())
	}
	if new(List).Len() != 0 || MustNew().Len() != 0 {
		t.Error("an empty list has entries")
	}
}

func TestMistakes(t *testing.T) {
	const form = `want an address or a prefix, as in "192.0.2.7", "192.0.2.0/24" or "2001:db8::/32"`
	for entry, want := range map[string]string{
		"":                       form,
		"office":                 form,
		"10.0.0":                 form,
		"10.0.0.256":             form,
		"010.0.0.1":              form, // octal to some, decimal to others
		"10.0.0.1:80":            form,
		"[2001:db8::1]":          form,
		"10.0.0.1-10.0.0.9":      form,
		"10.0.0.0/33":            form,
		"10.0.0.0/08":            form,
		"10.0.0.0/255.0.0.0":     form,
		"/8":                     form,
		"10.0.0.0/":              form,
		"fe80::%eth0/64":         form,
		"10.0.0.0/8, 11.0.0.0/8": form,
		"fe80::1%eth0":           `addresses are looked up without their zone: write "fe80::1"`,
		"192.0.2.7/24":           `has bits set behind its length: write "192.0.2.7" for the address, or "192.0.2.0/24" for the network`,
		"::ffff:192.0.2.7/120":   `has bits set behind its length: write "192.0.2.7" for the address, or "192.0.2.0/24" for the network`,
		"2001:db8::1/64":         `has bits set behind its length: write "2001:db8::1" for the address, or "2001:db8::/64" for the network`,
		"::ffff:0.0.0.0/95":      `a mapped prefix begins at /96, which is all of IPv4: write "0.0.0.0/0" if that is meant`,
	} {
		_, err := New("10.0.0.1", entry)
		if want := fmt.Sprintf("iplist: entry 2: %q: %s", entry, want); err == nil || err.Error() != want {
			t.Errorf("%q:\n got %v\nwant %s", entry, err, want)
		}
	}
	long := strings.Repeat("ä", 5000)
	if _, err := New(long); err == nil || len(err.Error()) > 400 {
		t.Errorf("a long entry is quoted in full: %d bytes", len(err.Error()))
	}
}

func TestMustNewPanicsWithAllMistakes(t *testing.T) {
	defer func() {
		err, _ := recover().(error)
		if err == nil || !strings.Contains(err.Error(), `entry 1: "a"`) || !strings.Contains(err.Error(), `entry 3: "b"`) {
			t.Errorf("panic %v", err)
		}
	}()
	MustNew("a", "10.0.0.1", "b")
}

func TestRead(t *testing.T) {
	list, err := Read(strings.NewReader("# blocked\r\n\r\n  192.0.2.7\t# a person\r\n198.51.100.0/24 ; SBL1\n;\n2001:db8::/32"))
	if err != nil {
		t.Fatal(err)
	}
	if list.Len() != 3 || !list.Contains(netip.MustParseAddr("2001:db8::1")) {
		t.Errorf("Len() = %d", list.Len())
	}
	if list, err = Read(strings.NewReader("")); err != nil || list.Len() != 0 {
		t.Errorf("nothing: %v, %v", list.Len(), err)
	}

	_, err = Read(strings.NewReader("# blocked\n10.0.0.1 10.0.0.2\n\n10.0.0.3\nx # y\n"))
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], `iplist: line 2: "10.0.0.1 10.0.0.2": want`) || !strings.HasPrefix(lines[1], `iplist: line 5: "x": want`) {
		t.Errorf("mistakes: %v", err)
	}
}

func TestErrorsAreBounded(t *testing.T) {
	_, err := Read(strings.NewReader(strings.Repeat("<html>\n", 12345)))
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 101 || lines[100] != "iplist: and 12245 more" {
		t.Errorf("%d lines, the last: %s", len(lines), lines[len(lines)-1])
	}
}

// A list that cannot be read, or has a mistake anywhere, changes nothing.
func TestReplaceIsAllOrNothing(t *testing.T) {
	list := MustNew("192.0.2.7")
	broken := errors.New("broken")
	for name, replace := range map[string]func() error{
		"entry": func() error { return list.Replace("10.0.0.1", "x") },
		"line":  func() error { return list.ReplaceFrom(strings.NewReader("10.0.0.1\nx\n")) },
		"long":  func() error { return list.ReplaceFrom(strings.NewReader("10.0.0.1\n" + strings.Repeat("1", 1<<20))) },
		"reader": func() error {
			err := list.ReplaceFrom(io.MultiReader(strings.NewReader("10.0.0.1\n10.0.0.2\n"), iotest.ErrReader(broken)))
			if !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "iplist: line 3: ") {
				t.Errorf("the error of the reader became %v", err)
			}
			return err
		},
	} {
		if replace() == nil {
			t.Errorf("%s: no error", name)
		}
		if list.Len() != 1 || !list.Contains(netip.MustParseAddr("192.0.2.7")) || list.Contains(netip.MustParseAddr("10.0.0.1")) {
			t.Errorf("%s: the list has changed", name)
		}
	}
	if err := list.Replace(); err != nil || list.Len() != 0 || list.Contains(netip.MustParseAddr("192.0.2.7")) {
		t.Errorf("replaced by nothing: %d entries, %v", list.Len(), err)
	}
}

// Two lists with one address in common replace each other in turns: that address is never missing, no part of a list is ever
// seen, and in the end one of them is in force.
func TestReplaceWhileRequestsLook(t *testing.T) {
	both, even, odd := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	lists := [2][]string{{both.String(), even.String()}, {both.String(), odd.String()}}
	list := MustNew(lists[0]...)
	done := make(chan struct{})
	var readers, writers sync.WaitGroup
	for range 2 {
		writers.Go(func() {
			for i := range 2000 {
				if err := list.Replace(lists[i%2]...); err != nil {
					t.Error(err)
				}
			}
		})
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if !list.Contains(both) {
					t.Error("an entry of both lists was missing")
					return
				}
				if list.Len() != 2 {
					t.Error("a part of a list was seen")
					return
				}
			}
		})
	}
	writers.Wait()
	close(done)
	readers.Wait()
	if list.Contains(even) == list.Contains(odd) {
		t.Error("two lists are in force, or none")
	}
}

// The trie agrees with a loop over all prefixes.
func TestContainsAgreesWithALoop(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		prefixes := somePrefixes(random, 1+random.IntN(60))
		list := MustNew(texts(prefixes)...)
		for range 400 {
			addr := someAddr(random)
			if random.IntN(2) == 0 { // near a prefix: its last address, or the next one
				addr = lastOf(prefixes[random.IntN(len(prefixes))])
				if random.IntN(2) == 0 {
					addr = addr.Next()
				}
			}
			want := false
			for _, prefix := range prefixes {
				want = want || prefix.Contains(addr)
			}
			if list.Contains(addr) != want {
				t.Fatalf("Contains(%s) = %v in %v", addr, !want, prefixes)
			}
		}
	}
}

func TestContainsDoesNotAllocate(t *testing.T) {
	list := MustNew("10.0.0.0/8", "2001:db8::/32")
	for _, text := range []string{"10.0.0.1", "192.0.2.7", "::ffff:10.0.0.1", "2001:db8::1", "2001:db9::1"} {
		addr := netip.MustParseAddr(text)
		if n := testing.AllocsPerRun(100, func() { list.Contains(addr) }); n != 0 {
			t.Errorf("%s: %v allocations", addr, n)
		}
	}
}

func FuzzReplaceFrom(f *testing.F) {
	f.Add("10.0.0.0/8\n# x\n2001:db8::1 ; y\n")
	f.Add("::ffff:10.0.0.0/104\n10.0.0.1/8\nfe80::1%lo")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := Read(strings.NewReader(text))
		if (list == nil) == (err == nil) {
			t.Fatalf("%v, %v", list, err)
		}
		if err != nil {
			return
		}
		table := list.table.Load()
		if table == nil {
			t.Fatal("read, but empty")
		}
		for prefix := range table.All() {
			if prefix != prefix.Masked() || prefix.Addr().Is4In6() || prefix.Addr().Zone() != "" {
				t.Fatalf("%v is not canonical", prefix)
			}
			if !list.Contains(prefix.Addr()) || !list.Contains(lastOf(prefix)) {
				t.Fatalf("%v is not on its list", prefix)
			}
		}
	})
}

func BenchmarkContains(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		random := rand.New(rand.NewPCG(3, 4))
		prefixes := somePrefixes(random, n)
		list := MustNew(texts(prefixes)...)
		var hits, misses [1024]netip.Addr
		for i := range hits {
			hits[i] = lastOf(prefixes[random.IntN(n)])
			for misses[i] = someAddr(random); list.Contains(misses[i]); {
				misses[i] = someAddr(random)
			}
		}
		for _, look := range []struct {
			name  string
			addrs []netip.Addr
		}{{"hit", hits[:]}, {"miss", misses[:]}} {
			b.Run(fmt.Sprintf("%d/%s", n, look.name), func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					list.Contains(look.addrs[i%len(look.addrs)])
				}
			})
		}
	}
}

func BenchmarkReplace(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		entries := texts(somePrefixes(rand.New(rand.NewPCG(3, 4)), n))
		list := new(List)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := list.Replace(entries...); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// somePrefixes is n different prefixes, two thirds IPv4, of the lengths that block lists have.
func somePrefixes(random *rand.Rand, n int) []netip.Prefix {
	seen := make(map[netip.Prefix]bool, n)
	prefixes := make([]netip.Prefix, 0, n)
	for len(prefixes) < n {
		addr := someAddr(random)
		prefix := netip.PrefixFrom(addr, addr.BitLen()/2+random.IntN(addr.BitLen()/2+1)).Masked()
		if !seen[prefix] {
			seen[prefix] = true
			prefixes = append(prefixes, prefix)
		}
	}
	return prefixes
}

func someAddr(random *rand.Rand) netip.Addr {
	var bits [16]byte
	for i := range bits {
		bits[i] = byte(random.Uint32())
	}
	if random.IntN(3) > 0 {
		return netip.AddrFrom4([4]byte(bits[:4]))
	}
	bits[0] = 0x20 // Global unicast, so none is mapped.
	return netip.AddrFrom16(bits)
}

func lastOf(prefix netip.Prefix) netip.Addr {
	bits := prefix.Addr().AsSlice()
	for i := prefix.Bits(); i < len(bits)*8; i++ {
		bits[i/8] |= 0x80 >> (i % 8)
	}
	addr, _ := netip.AddrFromSlice(bits)
	return addr
}

func texts(prefixes []netip.Prefix) []string {
	entries := make([]string, len(prefixes))
	for i, prefix := range prefixes {
		entries[i] = prefix.String()
	}
	return entries
}

// Files as editors and generators write them: with a byte order mark, and with comments of any length.
func TestReadOddFiles(t *testing.T) {
	comment := "# " + strings.Repeat("long ", 40_000)
	list, err := Read(strings.NewReader("\ufeff10.0.0.0/8 " + comment + "\r\n" + comment + "\n192.0.2.7"))
	if err != nil || list.Len() != 2 {
		t.Fatalf("%v, %v", list, err)
	}
	_, err = Read(strings.NewReader("192.0.2.7\n" + strings.Repeat("x", 100_000) + "\n192.0.2.8\nnonsense\n"))
	if err == nil || !strings.Contains(err.Error(), "iplist: line 2: ") || !strings.Contains(err.Error(), "longer than 4096 bytes") ||
		!strings.Contains(err.Error(), `iplist: line 4: "nonsense": want an address`) || len(err.Error()) > 1000 {
		t.Errorf("%.2000v", err)
	}
	if _, err := Read(strings.NewReader(strings.Repeat(" ", 5000) + "192.0.2.7\n")); err == nil {
		t.Error("an entry behind 5,000 spaces was read or lost")
	}
}
