package object

const (
	// ProviderIDPrefix begins the spec.providerID of every edge Node; the node's name follows.
	ProviderIDPrefix = "tether://"
	// LabelEdge marks the Leases of edges.
	LabelEdge = "tether.io/edge"
	// AnnotationRemoved on a Lease says that its node was removed for good: the Node is not created again. It is set
	// before the Node is deleted; any value counts.
	AnnotationRemoved = "tether.io/removed"
)
