package main

import (
	"cmp"
	"slices"
)

// top returns the indexes of the largest items that are not 0, and how many more there are.
func top[T any](items []T, size func(T) int) (largest []int, more int) {
	const shown = 10
	for i, item := range items {
		if size(item) > 0 {
			largest = append(largest, i)
		}
	}
	slices.SortStableFunc(largest, func(a, b int) int { return cmp.Compare(size(items[b]), size(items[a])) })
	if more = len(largest) - shown; more > 0 {
		return largest[:shown], more
	}
	return largest, 0
}
