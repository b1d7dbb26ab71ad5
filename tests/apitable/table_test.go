package apitable

import "net/http"

const (
	ns     = "/api/v1/namespaces/shop"
	leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
	csi    = "/apis/storage.k8s.io/v1/csinodes"

	strategic = "application/strategic-merge-patch+json"
	merge     = "application/merge-patch+json"
	jsonPatch = "application/json-patch+json"

	get, post, put, patch, del = http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete

	cloudOwns = "the reason given is that the cloud owns it"
)

const lease = `{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"gateway-7","namespace":"kube-node-lease"},"spec":{"holderIdentity":"gateway-7","leaseDurationSeconds":40}}`

const csiNode = `{"apiVersion":"storage.k8s.io/v1","kind":"CSINode","metadata":{"name":"gateway-7"},"spec":{"drivers":[]}}`

const event = `{"apiVersion":"v1","kind":"Event","metadata":{"name":"web.1","namespace":"shop"},"involvedObject":{"kind":"Pod","name":"web","namespace":"shop"},
 "reason":"Pulled","message":"m","type":"Normal","count":1,"source":{"component":"kubelet","host":"gateway-7"},
 "firstTimestamp":"2026-01-01T00:00:00Z","lastTimestamp":"2026-01-01T00:00:00Z"}`

// table is replayed in this order: later rows see what earlier ones wrote.
var table = []row{
	// Reading.
	{name: "get a pod", method: get, path: ns + "/pods/web"},
	{name: "get a pod as protobuf", method: get, path: ns + "/pods/web", accept: "application/vnd.kubernetes.protobuf"},
	{name: "get an absent pod", method: get, path: ns + "/pods/none", admin: true},
	{name: "get a pod's status", method: get, path: ns + "/pods/web/status", admin: true},
	{name: "list the node's pods", method: get, path: "/api/v1/pods?fieldSelector=spec.nodeName%3Dgateway-7"},
	{name: "list pods of another node", method: get, path: "/api/v1/pods?fieldSelector=spec.nodeName%3Delsewhere", admin: true},
	{name: "list pods by label", method: get, path: ns + "/pods?labelSelector=app+in+(web,job),app!%3Djob", admin: true},
	{name: "list pods by phase", method: get, path: ns + "/pods?fieldSelector=status.phase%21%3DRunning,metadata.name%3Dweb", admin: true},
	{name: "list pods with a limit", method: get, path: ns + "/pods?limit=1", admin: true, differs: "lists are whole", edgeCode: 200},
	{name: "list with a made-up continue", method: get, path: ns + "/pods?continue=abc", admin: true,
		differs: "there are no continue tokens; 410 makes clients list anew", edgeCode: 410},
	{name: "select by an unknown field", method: get, path: ns + "/pods?fieldSelector=spec.colour%3Dred", admin: true},
	{name: "select ConfigMaps by an unknown field", method: get, path: ns + "/configmaps?fieldSelector=data%3Dx", admin: true},
	{name: "select by a broken field selector", method: get, path: ns + "/pods?fieldSelector=a", admin: true},
	{name: "select by a broken label selector", method: get, path: ns + "/pods?labelSelector=a+in", admin: true},
	{name: "list at version 0", method: get, path: ns + "/pods?resourceVersion=0", admin: true},
	{name: "list at no version", method: get, path: ns + "/pods?resourceVersion=abc", admin: true, message: "the words for a version that is none"},
	{name: "list exactly at no version", method: get, path: ns + "/pods?resourceVersionMatch=Exact", admin: true},
	{name: "list at a future version", method: get, path: ns + "/pods?resourceVersion=9000000000000000000", admin: true, message: "it names the current version"},
	{name: "send initial events to a list", method: get, path: ns + "/pods?sendInitialEvents=true", admin: true},
	{name: "send initial events without a match", method: get, path: ns + "/pods?watch=1&sendInitialEvents=true", admin: true},
	{name: "watch at no version", method: get, path: ns + "/pods?watch=1&resourceVersion=abc", admin: true,
		differs: "the API server takes the client's mistake for its own and answers 500", edgeCode: 400},
	{name: "list only metadata", method: get, path: ns + "/pods?fieldSelector=metadata.name%3Dweb", admin: true,
		accept: "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"},
	{name: "get only metadata", method: get, path: ns + "/pods/web", accept: "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"},
	{name: "get a table", method: get, path: ns + "/configmaps/settings", accept: "application/json;as=Table;g=meta.k8s.io;v=v1",
		differs: "the columns carry no descriptions", edgeCode: 200},
	{name: "get as YAML", method: get, path: ns + "/pods/none", accept: "application/yaml", admin: true},
	{name: "get as what nobody speaks", method: get, path: ns + "/pods/web", accept: "text/plain",
		differs: "the text is that of the API machinery", edgeCode: 406},
	{name: "get with the old export", method: get, path: ns + "/pods/web?export=true"},
	{name: "get the node", method: get, path: "/api/v1/nodes/gateway-7"},
	{name: "list the node", method: get, path: "/api/v1/nodes?fieldSelector=metadata.name%3Dgateway-7"},
	{name: "list services that have an address", method: get, path: "/api/v1/services?fieldSelector=spec.clusterIP%21%3DNone,metadata.namespace%3Dshop"},
	{name: "list services by type", method: get, path: ns + "/services?fieldSelector=spec.type%3DClusterIP"},
	{name: "get a ConfigMap", method: get, path: ns + "/configmaps/settings"},
	{name: "list one ConfigMap", method: get, path: ns + "/configmaps?fieldSelector=metadata.name%3Dsettings"},
	{name: "get a Secret", method: get, path: ns + "/secrets/key"},
	{name: "list Secrets by type", method: get, path: ns + "/secrets?fieldSelector=type%3DOpaque", admin: true},
	{name: "list Secrets of another type", method: get, path: ns + "/secrets?fieldSelector=type%3Dkubernetes.io/tls", admin: true},
	{name: "get a service account", method: get, path: ns + "/serviceaccounts/default"},
	{name: "list runtime classes", method: get, path: "/apis/node.k8s.io/v1/runtimeclasses"},
	{name: "get an absent runtime class", method: get, path: "/apis/node.k8s.io/v1/runtimeclasses/x"},
	{name: "list CSI drivers", method: get, path: "/apis/storage.k8s.io/v1/csidrivers"},
	{name: "get an absent volume", method: get, path: "/api/v1/persistentvolumes/x", admin: true},
	{name: "get an absent attachment", method: get, path: "/apis/storage.k8s.io/v1/volumeattachments/x", admin: true},
	{name: "get an absent resource claim", method: get, path: "/apis/resource.k8s.io/v1/namespaces/shop/resourceclaims/x", admin: true},

	// What does not exist.
	{name: "a resource that is none", method: get, path: ns + "/colours", admin: true},
	{name: "a group that is none", method: get, path: "/apis/colours.example.com/v1/colours", admin: true},
	{name: "a version that is none", method: get, path: "/api/v7/pods", admin: true},
	{name: "a pod without its namespace", method: get, path: "/api/v1/pods/web", admin: true},
	{name: "a node with a namespace", method: get, path: ns + "/nodes/gateway-7", admin: true},
	{name: "replace all pods", method: put, path: ns + "/pods", body: "{}", admin: true},
	{name: "post to a pod's name", method: post, path: ns + "/pods/web", body: "{}", admin: true},
	{name: "patch all pods", method: patch, path: ns + "/pods", contentType: merge, body: "{}", admin: true},

	// A pod's status.
	{name: "strategic patch of a status", method: patch, path: ns + "/pods/web/status", contentType: strategic,
		body: `{"metadata":{"uid":"UID(web)"},"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True","lastProbeTime":null,"lastTransitionTime":"2026-01-01T00:00:00Z"}],"hostIP":"10.0.0.1","podIP":"10.1.0.1","podIPs":[{"ip":"10.1.0.1"}]}}`},
	{name: "the same again", method: patch, path: ns + "/pods/web/status", contentType: strategic,
		body: `{"metadata":{"uid":"UID(web)"},"status":{"phase":"Running"}}`},
	{name: "a second condition", method: patch, path: ns + "/pods/web/status", contentType: strategic,
		body: `{"status":{"conditions":[{"type":"PodScheduled","status":"True"}],"$setElementOrder/conditions":[{"type":"PodScheduled"},{"type":"Ready"}]}}`},
	{name: "take a condition away", method: patch, path: ns + "/pods/web/status", contentType: strategic,
		body: `{"status":{"conditions":[{"$patch":"delete","type":"PodScheduled"}]}}`},
	{name: "merge patch of a status", method: patch, path: ns + "/pods/web/status", contentType: merge, body: `{"status":{"message":"hello"}}`},
	{name: "JSON patch of a status", method: patch, path: ns + "/pods/web/status", contentType: jsonPatch,
		body: `[{"op":"test","path":"/status/message","value":"hello"},{"op":"replace","path":"/status/message","value":"bye"}]`},
	{name: "JSON patch whose test fails", method: patch, path: ns + "/pods/web/status", contentType: jsonPatch,
		body: `[{"op":"test","path":"/status/message","value":"hello"}]`},
	{name: "JSON patch of a place that is none", method: patch, path: ns + "/pods/web/status", contentType: jsonPatch,
		body: `[{"op":"replace","path":"/status/nothing/here","value":"x"}]`},
	{name: "JSON patch that is none", method: patch, path: ns + "/pods/web/status", contentType: jsonPatch, body: `{"a":`},
	{name: "strategic patch that is none", method: patch, path: ns + "/pods/web/status", contentType: strategic, body: `[1]`},
	{name: "a patch of the wrong type", method: patch, path: ns + "/pods/web/status", contentType: strategic, body: `{"status":{"conditions":"x"}}`},
	{name: "a patch type that is none", method: patch, path: ns + "/pods/web/status", contentType: "application/json", body: `{}`,
		differs: "the list of patch types lacks server-side apply", edgeCode: 415},
	{name: "server-side apply", method: patch, path: ns + "/pods/web/status?fieldManager=x", contentType: "application/apply-patch+yaml",
		body: `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"}}`, differs: "who manages which field is the cloud's business", edgeCode: 415},
	{name: "patch of another uid", method: patch, path: ns + "/pods/web/status", contentType: strategic, body: `{"metadata":{"uid":"00000000"},"status":{"phase":"Failed"}}`,
		message: "it names uids"},
	{name: "patch of an old version", method: patch, path: ns + "/pods/web/status", contentType: merge, body: `{"metadata":{"resourceVersion":"1"},"status":{"phase":"Failed"}}`},
	{name: "patch of an absent pod", method: patch, path: ns + "/pods/none/status", contentType: strategic, body: `{"status":{"phase":"Failed"}}`},
	{name: "a spec in a status is ignored", method: patch, path: ns + "/pods/web/status", contentType: strategic, body: `{"spec":{"nodeName":"elsewhere"}}`},
	{name: "labels in a status are refused", method: patch, path: ns + "/pods/web/status", contentType: strategic, body: `{"metadata":{"labels":{"a":"b"}}}`},
	{name: "another name in the body", method: patch, path: ns + "/pods/web/status", contentType: merge, body: `{"metadata":{"name":"x"}}`},
	{name: "another namespace in the body", method: patch, path: ns + "/pods/web/status", contentType: merge, body: `{"metadata":{"namespace":"x"}}`},
	{name: "a body of another kind", method: put, path: ns + "/pods/web/status", body: `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"web"}}`, message: "it names a type of the server's own"},
	{name: "a body that is no JSON", method: put, path: ns + "/pods/web/status", body: `{"apiVersion"`},
	{name: "a field manager that is too long", method: patch, path: ns + "/pods/web/status?fieldManager=" + long, contentType: merge, body: `{}`},
	{name: "see the status", method: get, path: ns + "/pods/web"},
	{name: "patch a pod", method: patch, path: ns + "/pods/web", contentType: merge, body: `{"spec":{"nodeName":"x"}}`, message: cloudOwns},
	{name: "delete all pods", method: del, path: ns + "/pods", message: cloudOwns},
	{name: "create a pod that is no mirror", method: post, path: ns + "/pods",
		body: `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"mine"},"spec":{"nodeName":"gateway-7","containers":[{"name":"c","image":"i"}]}}`},
	{name: "change a ConfigMap", method: patch, path: ns + "/configmaps/settings", contentType: merge, body: `{"data":{"k":"2"}}`, message: cloudOwns},
	{name: "create a Secret", method: post, path: ns + "/secrets", body: `{"metadata":{"name":"x"}}`, message: cloudOwns},

	// The node.
	{name: "patch the node's status", method: patch, path: "/api/v1/nodes/gateway-7/status", contentType: strategic,
		body: `{"metadata":{"annotations":{"volumes.kubernetes.io/controller-managed-attach-detach":"true"},"labels":{"kubernetes.io/arch":"amd64"}},"status":{"capacity":{"cpu":"4"},"allocatable":{"cpu":"3"},"conditions":[{"type":"Ready","status":"True","reason":"KubeletReady"}],"addresses":[{"type":"Hostname","address":"gateway-7"}]}}`},
	{name: "change one condition", method: patch, path: "/api/v1/nodes/gateway-7/status", contentType: strategic,
		body: `{"status":{"conditions":[{"type":"Ready","status":"False"},{"type":"DiskPressure","status":"False"}]}}`},
	{name: "take an annotation away", method: patch, path: "/api/v1/nodes/gateway-7/status", contentType: strategic,
		body: `{"metadata":{"annotations":{"volumes.kubernetes.io/controller-managed-attach-detach":null}}}`},
	{name: "label the node", method: patch, path: "/api/v1/nodes/gateway-7", contentType: merge, body: `{"metadata":{"labels":{"rack":"2"}}}`},
	{name: "a restricted label", method: patch, path: "/api/v1/nodes/gateway-7", contentType: merge, body: `{"metadata":{"labels":{"node-restriction.kubernetes.io/x":"y"}}}`},
	{name: "a role", method: patch, path: "/api/v1/nodes/gateway-7/status", contentType: merge, body: `{"metadata":{"labels":{"node-role.kubernetes.io/edge":""}}}`},
	{name: "a taint", method: patch, path: "/api/v1/nodes/gateway-7", contentType: merge, body: `{"spec":{"taints":[{"key":"a","effect":"NoSchedule"}]}}`},
	{name: "cordon", method: patch, path: "/api/v1/nodes/gateway-7", contentType: merge, body: `{"spec":{"unschedulable":true}}`,
		differs: "the Node here follows when the cloud's comes down", edgeCode: 200},
	{name: "evict a pod that is not there", method: post, path: ns + "/pods/nobody/eviction", body: `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"nobody"}}`},
	{name: "register again", method: post, path: "/api/v1/nodes", body: `{"apiVersion":"v1","kind":"Node","metadata":{"name":"gateway-7"}}`},
	{name: "register another node", method: post, path: "/api/v1/nodes", body: `{"apiVersion":"v1","kind":"Node","metadata":{"name":"gateway-8"}}`},
	{name: "delete the node", method: del, path: "/api/v1/nodes/gateway-7", message: cloudOwns},

	// Leases.
	{name: "get no lease", method: get, path: leases + "/gateway-7"},
	{name: "create a lease", method: post, path: leases, body: lease},
	{name: "create it again", method: post, path: leases, body: lease},
	{name: "update a lease of an old version", method: put, path: leases + "/gateway-7",
		body: `{"metadata":{"name":"gateway-7","resourceVersion":"1"},"spec":{"holderIdentity":"gateway-7"}}`},
	{name: "patch a lease", method: patch, path: leases + "/gateway-7", contentType: merge, body: `{"spec":{"renewTime":"2026-01-01T00:00:00.000000Z"}}`},
	{name: "see the lease", method: get, path: leases + "/gateway-7"},
	{name: "a lease without a name", method: post, path: leases, body: `{"metadata":{}}`, admin: true},
	{name: "an unknown field, strictly", method: put, path: leases + "/gateway-7?fieldValidation=Strict", body: `{"metadata":{"name":"gateway-7"},"spec":{"colour":"red"}}`},
	{name: "a lease in the wrong namespace", method: post, path: leases, body: `{"metadata":{"name":"x","namespace":"shop"}}`, admin: true},

	// CSINode.
	{name: "get no CSINode", method: get, path: csi + "/gateway-7"},
	{name: "create a CSINode", method: post, path: csi, body: csiNode},
	{name: "create the CSINode again", method: post, path: csi, body: csiNode},
	{name: "patch the CSINode", method: patch, path: csi + "/gateway-7", contentType: merge,
		body: `{"spec":{"drivers":[{"name":"csi.example.com","nodeID":"n1","topologyKeys":null}]}}`},
	{name: "see the CSINode", method: get, path: csi + "/gateway-7"},
	{name: "the CSINode of another", method: post, path: csi, body: `{"metadata":{"name":"gateway-8"},"spec":{"drivers":[]}}`},

	// Events.
	{name: "create an event", method: post, path: ns + "/events", body: event},
	{name: "create the event again", method: post, path: ns + "/events", body: event},
	{name: "count an event", method: patch, path: ns + "/events/web.1", contentType: strategic, body: `{"count":2,"lastTimestamp":"2026-01-01T00:00:09Z"}`},
	{name: "count an unknown event", method: patch, path: ns + "/events/none", contentType: strategic, body: `{"count":2}`},
	{name: "see the events", method: get, path: ns + "/events?fieldSelector=involvedObject.name%3Dweb,reason%3DPulled", admin: true},
	{name: "see no events", method: get, path: ns + "/events?fieldSelector=involvedObject.kind%3DNode", admin: true},

	// Tokens.
	{name: "a token for a pod", method: post, path: ns + "/serviceaccounts/default/token",
		body: `{"spec":{"audiences":["a"],"expirationSeconds":3607,"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"web","uid":"UID(web)"}}}`},
	{name: "a token for nobody", method: post, path: ns + "/serviceaccounts/default/token", body: `{"spec":{"audiences":["a"]}}`},
	{name: "a token for a pod that was", method: post, path: ns + "/serviceaccounts/default/token",
		body: `{"spec":{"audiences":["a"],"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"web","uid":"00000000"}}}`},
	{name: "a token of no account", method: post, path: ns + "/serviceaccounts/none/token", body: `{"spec":{}}`, admin: true},

	// Ends of pods.
	{name: "delete with grace", method: del, path: ns + "/pods/other", body: `{"gracePeriodSeconds":30}`, differs: cloudOwns, edgeCode: 403},
	{name: "delete another uid", method: del, path: ns + "/pods/web", body: `{"gracePeriodSeconds":0,"preconditions":{"uid":"00000000"}}`, message: "it names uids"},
	{name: "delete for a try", method: del, path: ns + "/pods/web", body: `{"gracePeriodSeconds":0,"dryRun":["All"]}`},
	{name: "delete a pod", method: del, path: ns + "/pods/web", body: `{"gracePeriodSeconds":0,"preconditions":{"uid":"UID(web)"}}`},
	{name: "it is gone", method: get, path: ns + "/pods/web", admin: true},
	{name: "delete it again", method: del, path: ns + "/pods/web", body: `{"gracePeriodSeconds":0}`},
	{name: "write its status", method: patch, path: ns + "/pods/web/status", contentType: strategic, body: `{"status":{"phase":"Failed"}}`},
	{name: "delete a pod with a finalizer", method: del, path: ns + "/pods/job", body: `{"gracePeriodSeconds":0,"preconditions":{"uid":"UID(job)"}}`},
	{name: "it stays", method: get, path: ns + "/pods/job"},
	{name: "its status can still be written", method: patch, path: ns + "/pods/job/status", contentType: strategic, body: `{"status":{"phase":"Succeeded"}}`},
	{name: "delete options that are none", method: del, path: ns + "/pods/job", body: `{"gracePeriodSeconds":"x"}`},
}

// long is one byte more than a field manager may have.
const long = "mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm" +
	"mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm"
