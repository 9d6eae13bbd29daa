"""raybox inside trainers: one module per framework, each of which imports that framework; `import raybox` imports none.

    raybox.integrations.verl         a tool of verl's agent loops, one sandbox per trajectory
    raybox.integrations.gymnasium    an environment whose actions are code

What went wrong around the code, and not in it, carries `should_mask_sample` through each of them.
"""
