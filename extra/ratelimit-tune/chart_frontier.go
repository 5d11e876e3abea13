package main

import (
	"fmt"
	"math"
	"strings"

	"github.com/gin-ratelimit/ratelimit"
)

// frontierChart draws bursts over rates, both in logarithmic scales.
func (r *report) frontierChart(given []ratelimit.Limit) *chart {
	p := newPlot("smallest sufficient bursts over rates", 430)
	most, low := int64(4), int64(math.MaxInt64)
	for _, c := range r.curves {
		most, low = max(most, c.Quantile(1000)), min(low, c.Quantile(900))
	}
	for _, l := range given {
		most, low = max(most, int64(l.Capacity)), min(low, int64(l.Capacity))
	}
	least := int64(1)
	for least <= low/10 {
		least *= 10
	}
	first, last := perSecond(r.curves[0].Rate), perSecond(r.curves[len(r.curves)-1].Rate)
	x := func(rate ratelimit.Rate) float64 { return math.Log(perSecond(rate)/first) / math.Log(last/first) }
	y := func(burst int64) float64 {
		return math.Log(float64(burst)/float64(least)) / math.Log(float64(most)/float64(least)*1.15)
	}

	if fastest := (ratelimit.Rate{Tokens: int(r.trace.TypicalCost()), Per: r.trace.Resolution}); perSecond(fastest) < last {
		from := max(0, x(fastest))
		left, top := p.at(from, 1)
		p.Bands = append(p.Bands, box{left, top, tenth(p.right() - left), p.box.Height})
		p.Texts = append(p.Texts, label{"mid", fmt.Sprintf("faster than the stamps (%v): the log cannot tell", r.trace.Resolution), (left + p.right()) / 2, top + 16})
	}
	for _, burst := range oneTwoFive(least, most) {
		p.yTick(y(burst), brief(burst))
	}
	for i, named := 0, -1.; i < len(r.curves); i++ {
		rate, name := r.curves[i].Rate, r.curves[i].Rate.String()
		if at := x(rate); at-named < .02+.009*float64(len(name)) {
			name = "" // There is no room.
		} else {
			named = at
		}
		p.xTick(x(rate), name)
	}
	p.Texts = append(p.Texts, label{"end", "burst", p.X - 8, 12})
	p.xTitle("rate")
	r.drawCurves(p, x, y)
	for i := range r.suggestions {
		s := &r.suggestions[i]
		cx, cy := p.at(x(s.Limit.Refill), y(int64(s.Limit.Capacity)))
		d := dot{"candidate", fmt.Sprintf("%v: refused requests %s, clients %s", s.Limit, interval(s.Refused.Requests, s.Spread.Requests), interval(s.Refused.Clients, s.Spread.Clients)), cx, cy, 4.5}
		if i == r.pick {
			d.Class, d.R = "best", 7
			p.mark(s.Limit, cx, cy-9)
		}
		p.Dots = append(p.Dots, d)
	}
	for _, l := range given {
		at := min(1, max(0, x(l.Refill)))
		cx, cy := p.at(at, y(int64(l.Capacity)))
		p.Dots = append(p.Dots, dot{"given", "replayed: " + l.String(), cx, cy, 6})
		p.mark(l, cx, cy+16)
	}
	return p.chart
}

// mark names a limit beside its place.
func (p *plot) mark(l ratelimit.Limit, x, y float64) {
	if x > p.X+p.box.Width*.8 {
		p.Texts = append(p.Texts, label{"strong end", l.String(), x - 10, y})
		return
	}
	p.Texts = append(p.Texts, label{"strong", l.String(), x + 10, y})
}

// drawCurves draws a curve for each share of the clients, and its name at the end.
func (r *report) drawCurves(p *plot, x func(ratelimit.Rate) float64, y func(int64) float64) {
	below := math.Inf(1)
	for _, share := range []struct {
		perMille          int
		class, name, long string
	}{{900, "q1", "90 %", "90 % of the clients"}, {990, "q2", "99 %", "99 % of the clients"}, {999, "q3", "99.9 %", "99.9 % of the clients"}, {1000, "q4", "all clients", "all clients"}} {
		points := make([]string, len(r.curves))
		var cx, cy float64
		for i, c := range r.curves {
			burst := c.Quantile(share.perMille)
			cx, cy = p.at(x(c.Rate), y(max(1, burst)))
			points[i] = fmt.Sprintf("%g,%g", cx, cy)
			p.Dots = append(p.Dots, dot{"point", fmt.Sprintf("%v burst %d suffices for %s", c.Rate, burst, share.long), cx, cy, 6})
		}
		p.Curves = append(p.Curves, curve{share.class, strings.Join(points, " ")})
		below = min(cy+4, below-14) // Names keep apart where curves meet.
		p.Texts = append(p.Texts, label{"strong", share.name, cx + 10, below})
	}
}

func perSecond(r ratelimit.Rate) float64 { return float64(r.Tokens) / r.Per.Seconds() }

// oneTwoFive returns 1, 2, 5, 10, … times the least up to the most, or powers of ten if those are many.
func oneTwoFive(least, most int64) (ticks []int64) {
	steps := []int64{1, 2, 5}
	if most/least > 1e5 {
		steps = steps[:1]
	}
	for unit := least; unit <= most && unit < math.MaxInt64/10; unit *= 10 {
		for _, step := range steps {
			if unit*step <= most {
				ticks = append(ticks, unit*step)
			}
		}
	}
	return ticks
}
