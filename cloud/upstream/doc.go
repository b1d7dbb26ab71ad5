// Package upstream applies what edges write to the API server, in the node's own name.
//
// It promises:
//   - every request for a node carries that node's user name by impersonation, so that the stock Node authorizer and
//     NodeRestriction decide (I6); the name comes from the caller, who took it from the certificate;
//   - a Result is final only where the API server's answer is definitive (I2): 2xx, 400, 404, 410, 422, a conflict
//     on the uid, and AlreadyExists on a create; everything else is to be sent again;
//   - an overlay is merged into the object as it is now and patched with its uid and resourceVersion as
//     preconditions, so that no field that the cloud owns is lost, and one that changes nothing costs no request;
//   - no write makes it panic or wait without bound, and what one node writes delays no other beyond a bounded number
//     of requests (I9).
//
// The hub's sessions use it. It keeps no client per node, and remembers objects only for seconds.
package upstream
