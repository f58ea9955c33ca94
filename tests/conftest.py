"""Being here makes `import painted` work from every folder of tests."""
