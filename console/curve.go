package console

import (
	"fmt"
	"slices"
	"strconv"
)

// figure is a drawing of Curves. console.js draws the same again when it has new ones.
type figure struct {
	Field, Caption string
	Width          int
	Lines          []figureLine
}

type figureLine struct{ Name, Path string }

func figures(l Limiter) []figure {
	return []figure{
		newFigure("seconds", "Last 15 minutes by the second, at most %d a second", keptSeconds, &l.Seconds),
		newFigure("minutes", "Last 24 hours by the minute, at most %d a minute", keptMinutes, &l.Minutes),
	}
}

func newFigure(field, caption string, width int, c *Curves) figure {
	f := figure{Field: field, Width: width}
	most := uint64(1)
	curves := [][]uint64{c.Accepted, c.Refused, c.Shadow, c.Failed}
	for _, values := range curves {
		most = max(most, slices.Max(values))
	}
	for i, name := range []string{"accepted", "refused", "shadow_refused", "failed"} {
		f.Lines = append(f.Lines, figureLine{name, steps(curves[i], width, most)})
	}
	f.Caption = fmt.Sprintf(caption, most)
	return f
}

// steps is the path of a curve that ends at width: a step for each value, and the largest is 96 high. A value that is not
// 0 can be told from 0. A curve of nothing but 0 is no path.
func steps(values []uint64, width int, most uint64) string {
	if slices.Max(values) == 0 {
		return ""
	}
	path := []byte("M0 98h")
	run, height := width-len(values), 0
	for _, v := range values {
		if h := int((96*v + most - 1) / most); h != height {
			path = strconv.AppendInt(path, int64(run), 10)
			path = strconv.AppendInt(append(path, 'v'), int64(height-h), 10)
			path = append(path, 'h')
			run, height = 0, h
		}
		run++
	}
	return string(strconv.AppendInt(path, int64(run), 10))
}
