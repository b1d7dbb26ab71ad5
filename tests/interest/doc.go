// Package interest compares what cloud/state shows a node with what the real Node authorizer lets it get, over generated
// clusters: never more, and never less except for Services, which the hub leaves out by choice.
//
// It promises that a difference prints the seed, the step and the object. It has tests only.
package interest
