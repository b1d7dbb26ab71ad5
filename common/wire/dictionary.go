package wire

// dictionary is the raw content that zstd starts from, least frequent strings first (matches near its end cost
// least). It is part of the protocol: see dictionaryID.
const dictionary = "" +
	"persistentVolumeClaimstorageClassNamevolumeModeFilesystemReadWriteOncekubernetes.io/pv-controller" +
	"storage.k8s.io/v1CSIDriverCSINodenode.k8s.io/v1RuntimeClassVolumeAttachment" +
	"kubernetes.io/service-account-tokenkubernetes.io/dockerconfigjson.dockerconfigjsonOpaquekubernetes.io/tlstls.crttls.key" +
	"ClusterIPSingleStackIPv4InternalClusterNonehttphttpsTCPUDPmetricskubernetes.io/metadata.name" +
	"KernelDeadlockMemoryPressureKubeletHasSufficientMemorykubelet has sufficient memory available" +
	"DiskPressureKubeletHasNoDiskPressurekubelet has no disk pressurePIDPressureKubeletHasSufficientPIDkubelet has sufficient PID available" +
	"ReadyKubeletReadykubelet is posting ready statusFalseTrueUnknownlastHeartbeatTimelastTransitionTimereasonmessage" +
	"kubernetes.io/archamd64arm64kubernetes.io/oslinuxkubernetes.io/hostnamenode-role.kubernetes.io/edgenode-role.kubernetes.io/agent" +
	"volumes.kubernetes.io/controller-managed-attach-detachephemeral-storagehugepages-1Gihugepages-2Micpumemorypods" +
	"hostnameInternalIPHostnamecontainerd://docker-pullable://sha256:" +
	"{\"pod\":{\"observedGeneration\":1,\"phase\":\"Running\",\"conditions\":[{\"type\":\"PodReadyToStartContainers\",\"observedGeneration\":1,\"status\":\"True\",\"lastProbeTime\":null,\"lastTransitionTime\":\"2026-" +
	"{\"type\":\"Initialized\",\"status\":\"True\"},{\"type\":\"Ready\",\"status\":\"False\",\"reason\":\"ContainersNotReady\",\"message\":\"containers with unready status: [" +
	"\"hostIP\":\"10.\",\"hostIPs\":[{\"ip\":\"10.\"}],\"podIP\":\"10.\",\"podIPs\":[{\"ip\":\"\"}],\"startTime\":\"\",\"containerStatuses\":[{\"name\":\"\",\"state\":{\"waiting\":{\"reason\":\"ContainerCreating\"}},{\"running\":{\"startedAt\":\"\"}},\"lastState\":{},\"ready\":true,\"restartCount\":0,\"image\":\"\",\"imageID\":\"sha256:\",\"containerID\":\"containerd://\",\"started\":true,\"resources\":{},\"volumeMounts\":[{\"name\":\"kube-api-access-\",\"mountPath\":\"/var/run/secrets/kubernetes.io/serviceaccount\",\"readOnly\":true,\"recursiveReadOnly\":\"Disabled\"}],\"user\":{\"linux\":{\"uid\":0,\"gid\":0,\"supplementalGroups\":[0]}}}],\"qosClass\":\"BestEffort\"}" +
	"\"conditions\":[\"ContainersReady\",\"Initialized\",\"PodReadyToStartContainers\",\"PodScheduled\",\"Ready\"]}" +
	"app.kubernetes.io/nameapp.kubernetes.io/instancepod-template-hashcontroller-revision-hashkubectl.kubernetes.io/last-applied-configuration" +
	"DaemonSetStatefulSetReplicaSetapps/v1Jobbatch/v1kubectl.kubernetes.io/restartedAt" +
	"/dev/termination-logFileIfNotPresentAlwaysdefault-schedulerClusterFirstPreemptLowerPriority" +
	"node.kubernetes.io/not-readyExistsNoExecutenode.kubernetes.io/unreachableExistsNoExecute" +
	"kube-api-access-projectedtokenkube-root-ca.crtca.crtnamespacev1metadata.namespace" +
	"/var/run/secrets/kubernetes.io/serviceaccountdefaultBurstableBestEffortGuaranteed" +
	"PodReadyToStartContainersInitializedReadyContainersReadyPodScheduledTrueFalse" +
	"v1Servicek8s\x00v1Nodek8s\x00v1ServiceAccountk8s\x00v1Secretk8s\x00\n\x0f\n\x02v1\x12\x09ConfigMap\x12k8s\x00\n\n\n\x02v1\x12\x03Pod\x12" +
	"kube-systemdefault\x00\"\x00*$0-4-4-8-a-b"
