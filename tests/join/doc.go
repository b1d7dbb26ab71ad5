// Package join tests an edge's renewal and CloudCore's join port against each other: real TLS, real files, a cluster in
// memory and a clock that can be set.
package join
