//! Tests of the configuration: broken files with snapshots, hostile ones, and good ones.

mod broken;
mod check;
mod every_key;
mod good;
mod hook;
mod hostile;
mod idle;
mod limits;
mod networks;
mod ranges;
mod readme;
mod shrink;
