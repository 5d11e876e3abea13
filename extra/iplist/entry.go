package iplist

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/gaissmai/bart"
)

// mostMistakes bounds an error: the wrong file may be a long one.
const mostMistakes = 100

// builder makes a table of entries, and collects the mistakes in them.
type builder struct {
	table    *bart.Lite
	mistakes []error
	further  int // mistakes beyond mostMistakes
}

// add puts an entry into the table; unit and position say where it stood.
func (b *builder) add(unit string, position int, entry string) {
	prefix, err := parse(strings.TrimSpace(entry))
	switch {
	case err == nil:
		b.table.Insert(prefix)
	case len(b.mistakes) < mostMistakes:
		b.mistakes = append(b.mistakes, fmt.Errorf("iplist: %s %d: %q: %w", unit, position, clip(entry), err))
	default:
		b.further++
	}
}

// read adds the lines of r that are not blank. Its error is that of r.
func (b *builder) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	line := 0
	for lines.Scan() {
		line++
		entry := lines.Text()
		if i := strings.IndexAny(entry, "#;"); i >= 0 {
			entry = entry[:i]
		}
		if entry = strings.TrimSpace(entry); entry != "" {
			b.add("line", line, entry)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("iplist: line %d: %w", line+1, err)
	}
	return nil
}

func (b *builder) err() error {
	if b.further > 0 {
		return errors.Join(errors.Join(b.mistakes...), fmt.Errorf("iplist: and %d more", b.further))
	}
	return errors.Join(b.mistakes...)
}

var errForm = errors.New(`want an address or a prefix, as in "192.0.2.7", "192.0.2.0/24" or "2001:db8::/32"`)

// parse reads an address or a prefix in canonical form. Its errors say what to write instead.
func parse(entry string) (netip.Prefix, error) {
	if !strings.Contains(entry, "/") {
		addr, err := netip.ParseAddr(entry)
		if err != nil {
			return netip.Prefix{}, errForm
		}
		if addr.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("addresses are looked up without their zone: write %q", addr.WithZone(""))
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(entry)
	if err != nil {
		return netip.Prefix{}, errForm
	}
	if addr := prefix.Addr(); addr.Is4In6() {
		if prefix.Bits() < 96 {
			return netip.Prefix{}, errors.New(`a mapped prefix begins at /96, which is all of IPv4: write "0.0.0.0/0" if that is meant`)
		}
		prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96)
	}
	if network := prefix.Masked(); network != prefix {
		return netip.Prefix{}, fmt.Errorf("has bits set behind its length: write %q for the address, or %q for the network",
			prefix.Addr(), network)
	}
	return prefix, nil
}

// clip keeps what is quoted in an error short: a file may hold anything.
func clip(text string) string {
	const most = 64
	if len(text) <= most {
		return text
	}
	return text[:most] + "…"
}
