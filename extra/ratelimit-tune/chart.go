package main

import (
	"fmt"
	"math"
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

func (p *plot) right() float64 { return p.X + p.box.Width }

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
