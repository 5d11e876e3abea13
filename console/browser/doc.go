// Package browser tests the console in headless Chromium. It is a module of its own, so that nobody who limits requests
// downloads what drives a browser.
package browser
