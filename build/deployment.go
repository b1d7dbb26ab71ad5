package build

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// deployment runs CloudCore on the machine's own network, where edges find it at the addresses of that machine.
const deployment = `# CloudCore in the cluster, on the network of the machine that it runs on.
apiVersion: v1
kind: ConfigMap
metadata:
  name: cloudcore
  namespace: tether-system
data:
  cloudcore.yaml: |
%[2]s
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: cloudcore
  namespace: tether-system
  labels:
    app.kubernetes.io/name: cloudcore
spec:
  replicas: 1
  # Two would want the same ports of one machine.
  strategy:
    type: Recreate
  selector:
    matchLabels:
      app.kubernetes.io/name: cloudcore
  template:
    metadata:
      labels:
        app.kubernetes.io/name: cloudcore
      annotations:
        tether.io/config: "%[5]x"
    spec:
      serviceAccountName: cloudcore
      hostNetwork: true
      dnsPolicy: ClusterFirstWithHostNet
      priorityClassName: system-cluster-critical
      tolerations:
      - key: node-role.kubernetes.io/control-plane
        operator: Exists
        effect: NoSchedule
      affinity:
        nodeAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            nodeSelectorTerms:
            - matchExpressions:
              - key: node-role.kubernetes.io/edge
                operator: DoesNotExist
      containers:
      - name: cloudcore
        image: "%[1]s"
        imagePullPolicy: IfNotPresent
        args: [--config, /etc/tether/cloudcore.yaml]
        ports:
        - name: websocket
          containerPort: %[3]d
%[6]s        - name: join
          containerPort: %[4]d
        readinessProbe:
          httpGet:
            host: 127.0.0.1
            path: /readyz
            port: 10004
          periodSeconds: 2
        livenessProbe:
          httpGet:
            host: 127.0.0.1
            path: /healthz
            port: 10004
          periodSeconds: 10
          failureThreshold: 6
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          runAsNonRoot: true
          runAsUser: 65532
          capabilities:
            drop: [ALL]
        volumeMounts:
        - name: config
          mountPath: /etc/tether
      volumes:
      - name: config
        configMap:
          name: cloudcore
`

// Deployment returns CloudCore's ConfigMap and Deployment, as YAML documents: config is its configuration file,
// webSocketPort, quicPort (0 for none) and joinPort are the ports in it.
func Deployment(image string, config []byte, webSocketPort, quicPort, joinPort int) []byte {
	quic := ""
	if quicPort != 0 {
		quic = fmt.Sprintf("        - name: quic\n          containerPort: %d\n          protocol: UDP\n", quicPort)
	}
	indented := "    " + strings.ReplaceAll(strings.TrimSpace(string(config)), "\n", "\n    ")
	return fmt.Appendf(nil, deployment, image, indented, webSocketPort, joinPort, sha256.Sum256(config), quic)
}
