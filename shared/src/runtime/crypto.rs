//! The one provider of cryptography in a process.

/// Installs the provider that TLS of MongoDB, NATS and HTTP clients uses. The first thing that a
/// process does: rustls panics at the first handshake where none is installed and more than one
/// is compiled in. Calling it again changes nothing.
pub fn install_provider() {
    // An error says that one is installed already: this one, for no other is compiled in.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
