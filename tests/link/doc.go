// Package link joins cloud/hub and edge/link in one process, over WebSocket and mutual TLS on loopback, and breaks what
// lies between them. What surrounds the two is made up: caches, upstream and store are maps. It has tests only.
package link
