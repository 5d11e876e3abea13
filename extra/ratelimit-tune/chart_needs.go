package main

import (
	"fmt"
	"math"
)

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
