package main

import (
	"fmt"
	"math"
	"time"

	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/tune"
)

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
