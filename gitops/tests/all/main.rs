//! Fetching from real repositories, over the file system and over real git smart HTTP.

mod fetch;
mod git_server;
mod work_tree;
