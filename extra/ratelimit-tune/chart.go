package main

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/tune"
)

// chart is a picture, for the template to draw.
type chart struct {
	Label         string // what it shows, for those who do not see it
	Width, Height float64

	Bands      []box
	Grid, Axes []segment
	Curves     []curve
	Bars       []bar
	Dots       []dot
	Texts      []label
}

type box struct{ X, Y, Width, Height float64 }

type segment struct{ X1, Y1, X2, Y2 float64 }

type curve struct{ Class, Points string }

type bar struct {
	box
	Class, Title string
}

type dot struct {
	Class, Title string
	X, Y, R      float64
}

type label struct {
	Class, Text string
	X, Y        float64
}

// plot is the part of a chart between its axes.
type plot struct {
	*chart
	box
}

const chartWidth = 960

// newPlot returns a plot of a chart of its own, with an axis below.
func newPlot(label string, height float64) *plot {
	const left, top, right, below = 64, 30, 84, 40
	p := &plot{&chart{Label: label, Width: chartWidth, Height: height}, box{left, top, chartWidth - left - right, height - top - below}}
	p.baseline()
	return p
}

func (p *plot) baseline() {
	p.Axes = append(p.Axes, segment{p.X, p.bottom(), p.right(), p.bottom()})
}

func (p *plot) bottom() float64 { return p.Y + p.box.Height }
func (p *plot) right() float64  { return p.X + p.box.Width }

// at is a place by parts of the plot: (0, 0) is the lower left corner.
func (p *plot) at(x, y float64) (float64, float64) {
	return tenth(p.X + x*p.box.Width), tenth(p.bottom() - y*p.box.Height)
}

func tenth(x float64) float64 { return math.Round(x*10) / 10 }

// yTick draws a line across at a height, and what it means.
func (p *plot) yTick(y float64, text string) {
	x, height := p.at(0, y)
	p.Grid = append(p.Grid, segment{x, height, p.right(), height})
	p.Texts = append(p.Texts, label{"end", text, x - 8, height + 4})
}

func (p *plot) xTick(x float64, text string) {
	at, bottom := p.at(x, 0)
	p.Axes = append(p.Axes, segment{at, bottom, at, bottom + 5})
	p.Texts = append(p.Texts, label{"mid", text, at, bottom + 19})
}

// xTitle is what the axis below means.
func (p *plot) xTitle(text string) {
	p.Texts = append(p.Texts, label{"end", text, p.right(), p.bottom() + 35})
}

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

// timeChart draws what is admitted and refused over time, and below what is refused alone, which may be little.
func (y *replayReport) timeChart() *chart {
	const height, gap, low = 240, 26, 70
	p := newPlot("requests over time", height+gap+low+54)
	p.box.Height = height
	p.Axes = nil
	lower := &plot{p.chart, box{p.X, p.bottom() + gap, p.box.Width, low}}
	p.baseline()
	lower.baseline()
	most, mostRefused := 1, 1
	for _, s := range y.tally.Steps {
		most, mostRefused = max(most, s.Admitted+s.Refused), max(mostRefused, s.Refused)
	}
	most, mostRefused = p.countTicks(most, 4), lower.countTicks(mostRefused, 1)
	start, step := y.tally.Span()
	n := len(y.tally.Steps)
	width := p.box.Width / float64(n)
	for i, s := range y.tally.Steps {
		left := tenth(p.X + float64(i)*width)
		column := func(p *plot, class string, from, part, all int) {
			if part == 0 {
				return
			}
			_, top := p.at(0, float64(from+part)/float64(all))
			_, bottom := p.at(0, float64(from)/float64(all))
			p.Bars = append(p.Bars, bar{box{left, top, tenth(max(.5, width*.9)), tenth(bottom - top)}, class, ""})
		}
		column(p, "admitted", 0, s.Admitted, most)
		column(p, "refused", s.Admitted, s.Refused, most)
		column(lower, "refused", 0, s.Refused, mostRefused)
		p.Bars = append(p.Bars, bar{box{left, p.Y, tenth(width), tenth(lower.bottom() - p.Y)}, "column",
			fmt.Sprintf("%s: %s admitted, %s refused", time.UnixMicro(start+int64(i)*step).UTC().Format("Jan 2 15:04:05"), number(s.Admitted), number(s.Refused))})
	}
	lower.timeTicks(y.tally)
	p.Texts = append(p.Texts, label{"end", "requests", p.X - 8, 12}, label{"end", "refused", p.X - 8, lower.Y - 10})
	return p.chart
}

// countTicks draws lines at round numbers, and returns what the height of the plot is then.
func (p *plot) countTicks(most, ticks int) int {
	step := 1
	for i := 0; step*ticks < most; i++ {
		step = []int{1, 2, 5}[i%3] * int(math.Pow10(i/3))
	}
	height := (most + step - 1) / step * step
	for n := step; n <= height; n += step {
		p.yTick(float64(n)/float64(height), number(n))
	}
	return height
}

// timeTicks draws the times of the axis, round ones.
func (p *plot) timeTicks(t *tune.Tally) {
	start, step := t.Span()
	span := step * int64(len(t.Steps))
	every := span
	for _, round := range []time.Duration{
		time.Second, 5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour,
		2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour, 48 * time.Hour, 7 * 24 * time.Hour,
	} {
		if every = round.Microseconds(); span/every < 12 {
			break
		}
	}
	every *= 1 + span/every/12
	layout := "15:04"
	switch {
	case every >= (24 * time.Hour).Microseconds():
		layout = "Jan 2"
	case every < time.Minute.Microseconds():
		layout = "15:04:05"
	case span > (24 * time.Hour).Microseconds():
		layout = "2 15:04"
	}
	for tick := start + (every-start%every)%every; tick < start+span; tick += every {
		p.xTick(float64(tick-start)/float64(span), time.UnixMicro(tick).UTC().Format(layout))
	}
}

// needsChart draws how many clients need which burst, in a logarithmic scale. The burst of the limit ends a bar.
func needsChart(needs []int64, burst int64) *chart {
	p := newPlot("clients by needed burst", 300)
	counts := make(map[int64]int) // by the upper end of the bar
	most, least := int64(1), int64(math.MaxInt64)
	for _, need := range needs {
		most, least = max(most, need), min(least, need)
	}
	end := int64(1)
	for end < least {
		end *= 2
	}
	ends := []int64{end / 2} // The first bar begins after it.
	for ; ; end *= 2 {
		if before := ends[len(ends)-1]; before < burst && burst < end {
			ends = append(ends, burst)
		}
		ends = append(ends, end)
		if end >= most {
			break
		}
	}
	for _, need := range needs {
		for i, end := range ends {
			if need <= end {
				counts[ends[max(1, i)]]++ // Costs of 0 need none.
				break
			}
		}
	}
	largest := 1
	for _, count := range counts {
		largest = max(largest, count)
	}
	height := func(count int) float64 { return math.Log1p(float64(count)) / math.Log1p(float64(largest)) * .92 }
	for decade := 1; decade <= largest; decade *= 10 {
		p.yTick(height(decade), number(decade))
	}
	width := 1 / float64(len(ends)-1)
	for i, end := range ends[1:] {
		from, class := ends[i]+1, "admitted"
		if from > burst {
			class = "refused"
		}
		name := number(end)
		if from < end {
			name = number(from) + "–" + number(end)
		}
		count := counts[end]
		middle := (float64(i) + .5) * width
		left, top := p.at(float64(i)*width+width*.08, height(count))
		_, bottom := p.at(0, 0)
		if count > 0 {
			p.Bars = append(p.Bars, bar{box{left, top, tenth(p.box.Width * width * .84), tenth(bottom - top)}, class, fmt.Sprintf("%s: needed burst %s", counted(count, "client"), name)})
		}
		at, top := p.at(middle, height(count))
		p.Texts = append(p.Texts, label{"mid strong", number(count), at, top - 5})
		if len(ends) > 12 {
			name = "≤ " + brief(end)
		}
		p.xTick(middle, name)
	}
	p.Texts = append(p.Texts, label{"end", "clients", p.X - 8, 12})
	p.xTitle("needed burst")
	return p.chart
}

// brief is about a number, as in 1.05M.
func brief(n int64) string {
	const units = " kMGTP"
	x, unit := float64(n), 0
	for x >= 10_000 || unit > 0 && x >= 1000 {
		x, unit = x/1000, unit+1
	}
	if unit == 0 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%.3g%c", x, units[unit])
}

// number is a number with commas, as in 12,345.
func number[N int | int64](n N) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
