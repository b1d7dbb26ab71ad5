package object

const (
	// ProviderIDPrefix begins the spec.providerID of every edge Node; the node's name follows.
	ProviderIDPrefix = "tether://"
	// LabelEdge marks the Leases of edges.
	LabelEdge = "tether.io/edge"
	// OwnKeys begin the labels and annotations of a Node that CloudCore writes, and AnnotationAutonomyUntil.
	OwnKeys = "tether.io/"
	// AnnotationRemoved on a Lease says that its node was removed for good: the Node is not created again. It is set
	// before the Node is deleted; any value counts.
	AnnotationRemoved = "tether.io/removed"
	// AnnotationAutonomyUntil on a Node is until when it can go on alone, as it says itself: RFC 3339, or "unbounded".
	AnnotationAutonomyUntil = "tether.io/autonomy-until"
	// ConditionAutonomy is the type of the Node's condition that says whether that is long enough.
	ConditionAutonomy = "tether.io/Autonomy"
	// ConditionKeptPods is the type of the Node's condition that says that its site has pods otherwise than the cluster.
	ConditionKeptPods = "tether.io/KeptPods"
	// AnnotationFenceAfter on a Node is written by its edge: how long after the cluster last heard it pods that are annotated
	// AnnotationFence have surely begun to end there, as a Go duration.
	AnnotationFenceAfter = "edge.tether.io/fence-after"
	// AnnotationFence on a pod, "true", asks that it ends on a node that is cut off for its fenceAfter.
	AnnotationFence = "tether.io/fence"
	// AnnotationStandInFor and AnnotationStandInForUID are, on a stand-in, which exists on its node only, the name and the uid of the
	// pod that it stands for.
	AnnotationStandInFor    = "tether.io/stand-in-for"
	AnnotationStandInForUID = "tether.io/stand-in-for-uid"
	// AnnotationKept is shown to people at the gateway, and stored nowhere: how a pod is that is not as the cluster has it.
	AnnotationKept = "tether.io/kept"
)

// Values of AnnotationKept.
const (
	KeptHeld     = "held"     // the cluster lost it
	KeptStandIn  = "stand-in" // the cluster never had it
	KeptWithheld = "withheld" // the kubelet does not run it
)
