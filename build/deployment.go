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
%[9]s      affinity:
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
            host: "%[7]s"
            path: /readyz
            port: %[8]s
          periodSeconds: 2
        livenessProbe:
          httpGet:
            host: "%[7]s"
            path: /healthz
            port: %[8]s
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

// DeploymentConfig is what differs between Deployments of CloudCore.
type DeploymentConfig struct {
	Image string
	// Config is CloudCore's configuration file; the ports and the metrics' host:port are those in it.
	Config                            []byte
	WebSocketPort, QUICPort, JoinPort int // QUICPort 0 for none
	MetricsHost, MetricsPort          string
	// Node is where its pod must run; anywhere but on an edge if empty.
	Node string
}

// Deployment returns CloudCore's ConfigMap and Deployment, as YAML documents.
func Deployment(c DeploymentConfig) []byte {
	quic, place := "", ""
	if c.QUICPort != 0 {
		quic = fmt.Sprintf("        - name: quic\n          containerPort: %d\n          protocol: UDP\n", c.QUICPort)
	}
	if c.Node != "" {
		place = fmt.Sprintf("      nodeSelector:\n        kubernetes.io/hostname: %q\n", c.Node)
	}
	indented := "    " + strings.ReplaceAll(strings.TrimSpace(string(c.Config)), "\n", "\n    ")
	return fmt.Appendf(nil, deployment, c.Image, indented, c.WebSocketPort, c.JoinPort, sha256.Sum256(c.Config), quic, c.MetricsHost, c.MetricsPort, place)
}
