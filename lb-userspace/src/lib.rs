//! Fairlead: the control plane.
